"""Living and dead processes, and the commit a run was made from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transferline.tracking import process


def test_a_process_lives_until_it_ends_even_if_nobody_has_waited_for_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process.identity(child.pid)
    assert name is not None
    assert process.lives(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
    assert not process.lives(name)
    child.communicate()
    assert not process.lives(name)


def test_another_process_with_the_same_pid_is_not_taken_for_it():
    assert process.lives(str(process.identity(os.getpid())))
    assert not process.lives(f"{os.getpid()}:1")


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
