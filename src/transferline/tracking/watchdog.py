"""A light process beside each stage: where `dvc` dies, it ends the stage; where that is killed, it closes its runs.

It learns of the stage's end from its pipe, or from having got another parent where forked workers still
hold the pipe open. MLflow is imported only when there is something to close.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from transferline import processes

GRACE_SECONDS = 60.0  # that an orphaned stage has to save and end, before it is killed

_DONE = "done"
_POLL_SECONDS = 1.0


class Guard:
    """The stage's end of the pipe."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def watch(self, experiment_id: str, process: str) -> None:
        """From here on, runs of `process` in that experiment are closed if the stage is killed."""
        self._tell(f"{experiment_id} {process}")

    def dismiss(self) -> None:
        self._tell(_DONE)

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):  # a watchdog that is itself gone must not fail the stage
            self._pipe.write(f"{line}\n".encode())


@contextmanager
def guard() -> Iterator[Guard]:
    """Start the watchdog of this process; it is dismissed when the block ends in whatever way."""
    package_root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(os.getpid()), processes.dvc_above() or ""]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # holding the stage's own would keep `dvc repro | tee` waiting
        stderr=subprocess.DEVNULL,
        bufsize=0,  # nothing may be left to flush into a broken pipe
        start_new_session=True,  # out of reach of Ctrl-C and of a kill of the whole process group
        env={**os.environ, "PYTHONPATH": str(package_root)},
    ) as process:
        assert process.stdin is not None
        guard = Guard(process.stdin)
        try:
            yield guard
        finally:
            guard.dismiss()


def _read(lines: list[str]) -> None:
    """Collect what the stage tells, up to its farewell: forked workers may keep the pipe open beyond it."""
    for line in sys.stdin:
        lines.append(line.strip())
        if lines[-1] == _DONE:
            return


class _Orphaned:
    """Ends the stage once its `dvc` is gone: nobody would take what it makes."""

    def __init__(self, stage: int, dvc: str) -> None:
        self._stage, self._dvc = stage, dvc
        self._asked: float | None = None

    def look(self) -> None:
        if self._asked is None and self._dvc and not processes.lives(self._dvc):
            self._asked = time.monotonic()
            os.kill(self._stage, signal.SIGTERM)  # it saves, and exits with 143
        elif self._asked is not None and time.monotonic() - self._asked > GRACE_SECONDS:
            os.kill(self._stage, signal.SIGKILL)


def main(stage: int, dvc: str) -> None:
    """Wait until the stage says farewell or is gone; then close what it left open.

    Args:
        stage: its pid; this process is its child.
        dvc: the identity of the `dvc` that runs it; empty where none does.
    """
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(lines,), daemon=True)
    reader.start()
    orphaned = _Orphaned(stage, dvc)
    while reader.is_alive() and os.getppid() == stage:
        with suppress(ProcessLookupError):  # it has ended since
            orphaned.look()
        reader.join(_POLL_SECONDS)
    if not lines or lines[-1] == _DONE:
        return
    from transferline.tracking import lineage, store

    experiment_id, process = lines[-1].split()
    lineage.close_abandoned(store.connect(), experiment_id, ended=process)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
