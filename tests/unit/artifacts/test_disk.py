"""What is written outlives a loss of power; what a killed process has left is swept by the next writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transferline import artifacts
from transferline.artifacts import disk

HALF = """
import sys
from pathlib import Path
from transferline import artifacts
path = Path(sys.argv[1])
with artifacts.atomic(path) as partial:
    if path.suffix:
        partial.write_text("half")
    else:
        partial.mkdir()
        (partial / "a.txt").write_text("half")
    print("writing", flush=True)
    input()
"""


def half(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing `path`."""
    command = [sys.executable, "-c", HALF, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "writing\n"
    return child


def end(child: subprocess.Popen[str], number: int) -> None:
    child.send_signal(number)
    child.communicate()


def write(path: Path) -> None:
    with artifacts.atomic(path) as partial:
        if path.suffix:
            partial.write_text("whole")
        else:
            partial.mkdir()
            (partial / "b.txt").write_text("whole")


@pytest.mark.parametrize("name", ["a.json", "folder"])
def test_what_a_killed_process_left_is_swept_by_the_next_writer(tmp_path: Path, name: str) -> None:
    child = half(tmp_path / name)
    end(child, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [f".{Path(name).stem}.{child.pid}{Path(name).suffix}"]
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_living_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    child = half(path)
    write(path)
    assert path.read_text() == "whole"
    child.communicate("\n")
    assert (child.returncode, path.read_text()) == (0, "half")
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_like_names_are_no_leftovers(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".a.json", ".a.b.json", "a.4194305.json", ".b.4194305.json", ".a.4194305")]
    for path in kept:
        path.write_text("of somebody else")
    write(tmp_path / "a.json")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "a.json"])


def test_a_folder_takes_the_place_of_another_or_of_a_link(tmp_path: Path) -> None:
    write(tmp_path / "folder")
    (tmp_path / "folder" / "old.txt").touch()
    write(tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    write(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order, and the renames between."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        done.append(f"-> {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", rename)
    return done


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path: Path, synced: list[str]) -> None:
    write(tmp_path / "a.json")
    assert synced == [f".a.{os.getpid()}.json", "-> a.json", tmp_path.name]


def test_a_folder_is_synced_once_with_all_that_is_in_it(tmp_path: Path, synced: list[str]) -> None:
    with artifacts.atomic(tmp_path / "folder") as partial:
        (partial / "sub").mkdir(parents=True)
        artifacts.write_text(partial / "sub" / "a.txt", "a")
        assert synced == ["-> a.txt"]
    own = f".folder.{os.getpid()}"
    assert sorted(synced[1:4]) == sorted(["sub", "a.txt", own])
    assert synced[4:] == ["-> folder", tmp_path.name]


def test_many_files_are_synced_at_once(tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    together = disk._sync_all
    monkeypatch.setattr(disk, "_sync_all", lambda folder: asked.append(together(folder)) or asked[-1])
    with artifacts.atomic(tmp_path / "folder") as partial:
        partial.mkdir()
        for number in range(100):
            (partial / f"{number}.txt").touch()
    assert len(asked) == 1
    assert len(synced) == (2 if asked[0] else 103)  # without syncfs, one by one


def test_a_failed_sync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.write_text(tmp_path / "a.txt", "old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(artifacts.files.UserError, match=r"a\.txt cannot be written: the disk reports an error"):
        artifacts.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
