"""A real MLflow server that fails on command, an empty project, and what tests ask of them."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from transferline import config, sections
from transferline.tracking import client, spool, store

FORK = multiprocessing.get_context("fork")  # mlflow is imported already


@dataclass
class Server:
    """A real server, and an experiment on it for each test."""

    process: subprocess.Popen[str]
    uri: str

    def __call__(self, mode: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(mode, file=self.process.stdin, flush=True)
        while (answer := self.process.stdout.readline()) != f"{mode}\n":
            assert answer, "the server has ended"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    program = Path(__file__).with_name("mlflow_server.py")
    command = [sys.executable, str(program), str(folder), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        server = Server(process, f"http://127.0.0.1:{port}")
        server("up")
        yield server
        process.kill()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, in which what waits is tried again with each call."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
        monkeypatch.delenv(name)
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR"):  # so that what connect sets is undone
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(client, "_PAUSES", (0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 1\n")
    return tmp_path


@pytest.fixture
def server(running: Server, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    running("up")
    yield running
    running("up")


@pytest.fixture
def mlflow_client(server: Server) -> MlflowClient:
    return MlflowClient(server.uri)


def params() -> config.Params:
    given = config.Params()
    given.seed = 1
    given.tracking = sections.Tracking(experiment=Path.cwd().name)
    return given


def new_run(through: MlflowClient, name: str = "run", **tags: str) -> Run:
    return through.create_run(store.experiment(through, Path.cwd().name), tags=tags, run_name=name)


def new_run_of(through: MlflowClient, parent: Run) -> Run:
    tags = {"mlflow.parentRunId": parent.info.run_id}
    return through.create_run(parent.info.experiment_id, tags=tags, run_name="child")


def waiting() -> list[Path]:
    return spool.kept()


def history(through: MlflowClient, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in through.get_metric_history(run_id, key)]


def named(through: MlflowClient, name: str) -> list[Run]:
    experiment = through.get_experiment_by_name(Path.cwd().name)
    assert experiment is not None
    return list(through.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'"))


def keep(run: Run, steps: int, place: str | None = None) -> None:
    """A spool as a process that has ended left it: per step a metric and a tag, and a child every tenth."""
    kept = spool.Spool.begin(place or store.place())
    for step in range(steps):
        given = {"run_id": run.info.run_id, "params": []}
        row = ["loss", step / 7, 1_700_000_000_000 + step, step]
        kept.append({"call": "log_batch", "given": {**given, "metrics": [row], "tags": [["at", str(step)]]}})
        if step % 10 == 0:
            tags = {"transferline.mark": f"{run.info.run_id[:30]}{step:02}"}
            child = {"experiment_id": run.info.experiment_id, "start_time": step, "run_name": "child", "tags": tags}
            kept.append({"call": "create_run", "given": child})
    kept.release()


@contextmanager
def restored_signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def killed(work: Callable[[], None]) -> None:
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def together(processes: list) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
