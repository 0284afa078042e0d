"""Real servers in processes of their own, over loopback: for tests and benchmarks."""

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

HOST = "127.0.0.1"
UP_S, DOWN_S = 180.0, 60.0  # far more than any takes


class Server(NamedTuple):
    """One that is ready."""

    port: int
    processes: list[psutil.Process]  # itself, and those it started
    log: Path  # what it printed

    def memory_mb(self) -> float:
        """Resident, of all its processes."""
        return sum(process.memory_info().rss for process in self.processes) / 1e6

    def cpu_s(self) -> float:
        """Seconds of processor, of all its processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def transferline_serve(model: Path, port: int, *options: str) -> list[str]:
    """The command line."""
    command = "from transferline.deploy.cli import app; app()"  # the script of that name belongs to an installation
    return [sys.executable, "-c", command, "serve", str(model), "--host", HOST, "--port", str(port), *options]


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    ready: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """The server of `command` from when GET `ready` answers 200; then stopped, as an operator would, by SIGTERM."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, stdin=subprocess.DEVNULL, cwd=cwd
        ) as process,
    ):
        members = [psutil.Process(process.pid)]
        try:
            _wait(process, port, ready, log)
            members += members[0].children(recursive=True)
            yield Server(port, members, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DOWN_S)
            for left in members:  # workers outlive a master that was killed
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()


def _wait(process: "subprocess.Popen[bytes]", port: int, ready: str, log: Path) -> None:
    until = time.monotonic() + UP_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if status(port, ready) == 200:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{' '.join(process.args)} does not answer:\n{log.read_text(errors='replace')[-3000:]}")


def status(port: int, path: str) -> int | None:
    """The status of a GET; None where nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
