"""The commit a run was made from."""

import subprocess
from pathlib import Path

import pytest

from transferline.tracking import process


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("tracked.txt").write_text("1")
    Path("dvc.lock").write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def test_commit_of_a_clean_tree(repository):
    assert process.git_commit() == repository


def test_a_changed_tree_is_dirty(repository):
    Path("tracked.txt").write_text("2")
    assert process.git_commit() == f"{repository}-dirty"


def test_dvc_writing_its_lock_does_not_make_the_tree_dirty(repository):
    Path("dvc.lock").write_text("2")
    Path("compare").mkdir()
    Path("compare/dvc.lock").write_text("of a stage beside the line, new")
    assert process.git_commit() == repository


def test_without_git_the_commit_is_unknown(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert process.git_commit() == "unknown"
