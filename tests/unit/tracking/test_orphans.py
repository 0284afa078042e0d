"""The watchdog's half of a stage that outlives its `dvc`: it asks, then it insists."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transferline import processes
from transferline.tracking import watchdog

STUBBORN = """
import os, signal, subprocess, sys, time
from transferline import processes

signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
watch = "import sys; from transferline.tracking import watchdog; watchdog.GRACE_SECONDS = 1.0; "
watch += f"watchdog.main({os.getpid()}, {processes.dvc_above()!r})"
subprocess.Popen([sys.executable, "-c", watch], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(processes.identity(os.getpid()), flush=True)
while True:
    time.sleep(0.1)
"""


def test_a_stage_that_does_not_end_when_asked_is_killed(tmp_path):
    (tmp_path / "stage").write_text(STUBBORN)
    (tmp_path / "dvc").write_text("import subprocess, sys\nsubprocess.run([sys.executable, sys.argv[1]])\n")
    command = [sys.executable, str(tmp_path / "dvc"), str(tmp_path / "stage")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dvc:
        stage = dvc.stdout.readline().strip()
        assert processes.lives(stage)
        dvc.kill()
        assert dvc.stdout.read() == "asked\n"  # and the pipe is closed, a moment before the process has ended
        deadline = time.monotonic() + 60
        while processes.lives(stage):
            assert time.monotonic() < deadline


@pytest.mark.parametrize("dvc", ["", processes.identity(os.getpid())], ids=["without", "alive"])
def test_without_a_dvc_or_while_it_lives_nothing_happens(dvc, monkeypatch):
    monkeypatch.setattr(os, "kill", pytest.fail)
    watchdog._Orphaned(os.getpid(), dvc).look()


def test_it_is_asked_once(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    orphaned = watchdog._Orphaned(1, f"{os.getpid()}:1")  # another process with that pid is not it
    for _ in range(3):
        orphaned.look()
    assert sent == [(1, signal.SIGTERM)]


def test_the_watchdog_starts_without_what_is_slow_to_import(tmp_path):
    code = (
        "import sys, runpy; runpy.run_path(sys.argv[1]); assert not {'pydantic', 'rich', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(Path(watchdog.__file__))], cwd=tmp_path, check=True)
