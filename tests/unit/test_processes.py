"""Living and dead processes, and the `dvc` above one."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transferline import processes


def test_a_process_lives_until_it_ends_even_if_nobody_has_waited_for_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = processes.identity(child.pid)
    assert name is not None
    assert processes.lives(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
    assert not processes.lives(name)
    child.communicate()
    assert not processes.lives(name)


def test_another_process_with_the_same_pid_is_not_taken_for_it():
    assert processes.lives(str(processes.identity(os.getpid())))
    assert not processes.lives(f"{os.getpid()}:1")


@pytest.mark.parametrize(
    "command",
    [
        "dvc repro",
        "/opt/bin/dvc exp exec-run --infofile x",
        "/venv/bin/python /venv/bin/dvc repro",
        "python3.11 -W error -P /venv/bin/dvc repro",
        "python -m dvc repro",
        "python.exe -m dvc.cli repro",
        "C:/Python/python.exe dvc.exe repro",
    ],
)
def test_a_command_of_dvc(command):
    assert processes.is_dvc(command.split())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "uv run dvc repro",
        "bash -c dvc",
        "vim dvc.yaml",
        "python train.py dvc",
        "python -m pytest dvc",
        "python -c dvc",
    ],
)
def test_a_command_of_another(command):
    assert not processes.is_dvc(command.split())


def above(tmp_path: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Scripts that start each other in this order; the last prints `dvc_above`, and each one its identity before."""
    chain = [*names, "last"]
    for name, following in itertools.pairwise(chain):
        (tmp_path / name).write_text(
            "import os, subprocess, sys\nfrom transferline import processes\n"
            "print(processes.identity(os.getpid()), flush=True)\n"
            f"subprocess.run([sys.executable, {str(tmp_path / following)!r}], check=True)\n"
        )
    (tmp_path / "last").write_text("from transferline import processes\nprint(processes.dvc_above())\n")
    command = [sys.executable, str(tmp_path / chain[0])]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_the_nearest_dvc_above_is_found_with_a_shell_between(tmp_path):
    worker, dvc, shell, found = above(tmp_path, "worker", "dvc", "shell").stdout.split()
    assert found == dvc
    assert len({worker, dvc, shell}) == 3


def test_without_dvc_above_there_is_none(tmp_path):
    assert above(tmp_path, "shell").stdout.split()[-1] == "None"
