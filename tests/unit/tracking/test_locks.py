"""One process at a time: locks that end with their holder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transferline.errors import UserError
from transferline.tracking import locks

HOLD = (
    "import sys; from transferline.tracking import locks\nwith locks.alone('train'): print('held', flush=True); {then}"
)


@contextmanager
def process(then: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD.format(then=then)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_second_process_says_for_whom_it_waits_and_goes_on_when_that_is_killed():
    with process("sys.stdin.read()") as first:
        assert first.stdout.readline() == "held\n"
        with process("") as second:
            assert (
                second.stdout.readline()
                == f"train: waiting for process {first.pid}, which is at this stage in this folder\n"
            )
            first.kill()
            assert second.stdout.read() == "held\n"
            assert second.wait() == 0


def test_other_stages_and_other_folders_do_not_wait(tmp_path, monkeypatch):
    with process("sys.stdin.read()") as first:
        assert first.stdout.readline() == "held\n"
        with locks.alone("tune"):
            pass
        (tmp_path / "copy").mkdir()
        monkeypatch.chdir(tmp_path / "copy")
        with locks.alone("train"):
            pass


def test_a_folder_that_cannot_be_written_is_one_message():
    Path(".cache").write_text("a file in its place")
    with pytest.raises(UserError, match=r"^\.cache/locks cannot be written"), locks.alone("train"):
        pass
