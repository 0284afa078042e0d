"""Files are written whole or not at all, read with errors that name them, and digested by name and content."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transferline import artifacts
from transferline.artifacts.files import readable
from transferline.errors import UserError


def test_a_file_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with artifacts.atomic(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with artifacts.atomic(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_as_a_whole_too(tmp_path: Path) -> None:
    def write(*, complete: bool) -> None:
        with artifacts.atomic(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / "a.txt").write_text("a")
            if not complete:
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(complete=False)
    assert list(tmp_path.iterdir()) == []
    write(complete=True)
    assert (tmp_path / "folder" / "a.txt").read_text() == "a"


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with artifacts.atomic(tmp_path / "a.png") as partial:
        partial.touch()
        assert (partial.parent, partial.suffix) == (tmp_path, ".png")
        assert partial.name != "a.png"


def test_what_cannot_be_json_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"a": object()})
    assert artifacts.read_json(path) == {"a": 1}


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "a.json", {"b": "é", "a": [1, None]})
    artifacts.write_json(tmp_path / "b.json", {"a": [1, None], "b": "é"})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith('"b": "é"\n}\n')


def test_a_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    artifacts.write_table(path, {"name": ["é", "b"], "value": np.array([1.5, 2.5], np.float32)})
    first = path.read_bytes()
    assert artifacts.read_table(path, ["name"]) == {"name": ["é", "b"], "value": [1.5, 2.5]}
    artifacts.write_table(path, {"name": ["é", "b"], "value": np.array([1.5, 2.5], np.float32)})
    assert path.read_bytes() == first


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    artifacts.write_table(path, {"name": ["a"]})
    with pytest.raises(UserError, match=r"t\.parquet lacks the column 'label'"):
        artifacts.read_table(path, ["name", "label"])


@pytest.mark.parametrize("read", [artifacts.read_json, artifacts.read_table])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"gone\.file is missing") as caught:
        read(tmp_path / "gone.file")
    assert "dvc repro" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"{broken", b"\xff\xfe\x00", b"PAR1 but no more"])
@pytest.mark.parametrize("read", [artifacts.read_json, artifacts.read_table])
def test_a_broken_file_is_named(tmp_path: Path, read: Callable[[Path], object], content: bytes) -> None:
    path = tmp_path / "broken.file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.file cannot be read: .") as caught:
        read(path)
    assert caught.value.fix.startswith("delete it")


def test_our_own_faults_are_not_taken_for_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), readable(tmp_path):
        _ = 1 / 0


def test_digest_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert artifacts.sha256(tmp_path / "a") == known


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    return root


def test_csv_gives_back_what_holds_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    rows = [["a,b", 'c"d'], ["line\nfeed", "carriage\rreturn"], ["both\r\n", " "], ["", "é"]]
    artifacts.write_csv(tmp_path / "a.csv", ["x", "y"], rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["x", "y"], *rows]


def test_digest_of_a_folder_changes_with_a_name(folder: Path) -> None:
    before = artifacts.sha256(folder)
    (folder / "a.txt").rename(folder / "c.txt")
    assert artifacts.sha256(folder) != before
    (folder / "c.txt").rename(folder / "a.txt")
    assert artifacts.sha256(folder) == before


def test_digest_of_a_folder_changes_with_a_content_deep_inside(folder: Path) -> None:
    before = artifacts.sha256(folder)
    (folder / "sub" / "b.txt").write_text("B")
    assert artifacts.sha256(folder) != before


def test_digest_of_a_folder_changes_when_contents_are_swapped(folder: Path) -> None:
    before = artifacts.sha256(folder)
    (folder / "a.txt").write_text("b")
    (folder / "sub" / "b.txt").write_text("a")
    assert artifacts.sha256(folder) != before


def test_digest_of_a_folder_does_not_depend_on_where_it_lies(folder: Path) -> None:
    before = artifacts.sha256(folder)
    assert artifacts.sha256(folder.rename(folder.parent / "moved")) == before


def test_digest_takes_names_that_are_not_utf8(folder: Path) -> None:
    before = artifacts.sha256(folder)
    (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    assert artifacts.sha256(folder) != before


def test_a_folder_is_folded_from_the_hashes_of_its_files_among_others(folder: Path) -> None:
    (folder.parent / f"{folder.name}.txt").write_text("not in it")
    hashes = artifacts.file_hashes([folder.parent])
    assert {path for path in hashes if path.startswith(f"{folder.as_posix()}/")} == set(artifacts.file_hashes([folder]))
    assert artifacts.folded(folder, hashes) == artifacts.sha256(folder)
    assert artifacts.folded(folder / "a.txt", hashes) == artifacts.sha256(folder / "a.txt")


def test_the_root_is_dvcs_where_it_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert artifacts.project_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "real"))
    assert artifacts.project_root() == (tmp_path / "real").resolve()
