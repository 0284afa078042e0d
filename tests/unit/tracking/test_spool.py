"""The file in which calls wait: whole lines, in order, and nothing that a kill or a full disk can spoil."""

import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import requests

from transferline.errors import UserError
from transferline.tracking import backlog, spool
from transferline.tracking.calls import Call, to_record
from transferline.tracking.client import Client

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOST = spool.LOCAL + "0" * 32


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> spool.Spool:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    begun = spool.Spool.begin("somewhere")
    for number in range(3):
        begun.append({"call": "log_batch", "given": {"number": number}})
    return begun


def numbers(of: spool.Spool) -> list[int]:
    return [record["given"]["number"] for record, _ in of.unsent()]


def test_calls_wait_in_order_until_they_are_sent(kept: spool.Spool) -> None:
    assert spool.store_of(kept.path) == "somewhere"
    assert (numbers(kept), spool.count(kept.path)) == ([0, 1, 2], 3)
    ends = [end for _, end in kept.unsent()]
    kept.mark(ends[1])
    assert (numbers(kept), spool.count(kept.path)) == ([2], 1)
    kept.mark(ends[2])
    assert (numbers(kept), spool.count(kept.path)) == ([], 0)
    kept.discard()
    assert list(spool.folder().iterdir()) == []


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_last_line_cut_short_is_no_call(kept: spool.Spool, left: int) -> None:
    whole = kept.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    kept.path.write_bytes(whole[: len(whole) - len(last) + left])
    assert (numbers(kept), spool.count(kept.path)) == ([0, 1], 2)


def test_a_file_killed_at_its_birth_waits_for_nothing(kept: spool.Spool) -> None:
    kept.path.write_bytes(b'{"stor')
    assert (numbers(kept), spool.count(kept.path), spool.store_of(kept.path)) == ([], 0, None)


def test_a_file_is_anothers_until_its_process_lets_go(kept: spool.Spool) -> None:
    assert spool.Spool.adopt(kept.path) is None
    kept.release()
    adopted = spool.Spool.adopt(kept.path)
    assert adopted is not None
    assert numbers(adopted) == [0, 1, 2]
    adopted.discard()
    assert spool.Spool.adopt(kept.path) is None
    assert list(spool.folder().iterdir()) == []


class Gone:
    """MlflowClient for a store that is not there."""

    def log_batch(self, **_: object) -> None:
        raise requests.ConnectionError


def test_a_forked_worker_leaves_the_file_to_its_process(kept: spool.Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.discard()
    through = Client(cast("MlflowClient", Gone()), "http://127.0.0.1:1", "somewhere")
    through.set_tag("run", "by", "the process")
    (path,) = spool.kept()
    fork = multiprocessing.get_context("fork")
    worker = fork.Process(target=through.set_tag, args=("run", "by", "its worker"))
    worker.start()
    worker.join(60)
    assert [spool.count(file) for file in spool.kept()] == [1, 1]
    assert [spool.Spool.adopt(file) is None for file in spool.kept()] == [True, False]
    through.set_tag("run", "by", "the process again")
    assert spool.count(path) == 2
    monkeypatch.setattr(backlog, "send", lambda *_: (0, "gone"))
    through.close()


def test_a_damaged_line_is_named(kept: spool.Spool) -> None:
    first, *others = kept.path.read_bytes().splitlines(keepends=True)
    kept.path.write_bytes(first + b"\xff{" + b"".join(others))
    with pytest.raises(UserError, match=f"{kept.path} is damaged before byte"):
        numbers(kept)
    kept.path.write_bytes(b"[]\n" + b"".join(others))
    with pytest.raises(UserError, match=f"{kept.path} is damaged in its first line"):
        spool.store_of(kept.path)


def test_a_local_id_becomes_the_runs_own(kept: spool.Spool) -> None:
    assert spool.real("of any other run") == "of any other run"
    with pytest.raises(spool.UnknownRunError):
        spool.real(LOST)
    spool.learn(LOST, "abc")
    assert spool.real(f"tags.`mlflow.parentRunId` = '{LOST}'") == "tags.`mlflow.parentRunId` = 'abc'"


def test_copies_keep_their_names_and_contents(kept: spool.Spool) -> None:
    folder = Path("a folder")
    folder.mkdir()
    (folder / "x.txt").write_text("x")
    given = to_record(Call("log_artifacts", {"local_dir": str(folder)}), kept)["given"]
    (folder / "x.txt").write_text("changed since")
    copy = spool.folder() / given["local_dir"]
    assert (copy.name, (copy / "x.txt").read_text()) == ("a folder", "x")


def test_a_full_disk_is_named_and_leaves_the_file_whole(kept: spool.Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = kept.path.read_bytes()
    with pytest.raises(UserError, match=f"{kept.path} cannot be written: .*No space left"):
        kept.append({"call": "log_batch"})
    Path("figure.txt").write_text("figure")
    with pytest.raises(UserError, match="No space left"):
        to_record(Call("log_artifact", {"local_path": "figure.txt"}), kept)
    assert kept.path.read_bytes() == before
