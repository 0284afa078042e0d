"""Real processes: many at once on a fresh store, and killed outright."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from transferline import config, sections, tracking
from transferline.tracking import store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def statuses(client: MlflowClient, worker: dict) -> set[str]:
    return {client.get_run(run_id).info.status for run_id in worker["runs"]}


def kill(worker: dict) -> None:
    os.kill(worker["pid"], signal.SIGKILL)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[dict[str, dict]]:
    """Four stages that began at once on a fresh store: their pids and runs, by stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    command = [sys.executable, str(Path(__file__).with_name("workers.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        reports = (json.loads(line) for line in process.stdout if line.startswith("{"))
        yield {worker["stage"]: worker for worker in itertools.islice(reports, 4)}
        os.killpg(process.pid, signal.SIGKILL)


def test_first_use_by_many_at_once_and_kills_at_any_moment(workers):
    assert set(workers) == {"fetch", "prepare", "tune", "train"}
    client = store.connect()

    kill(workers["tune"])  # its watchdog closes its runs
    deadline = time.monotonic() + 120
    while statuses(client, workers["tune"]) != {"KILLED"} and time.monotonic() < deadline:
        time.sleep(0.2)
    assert statuses(client, workers["tune"]) == {"KILLED"}
    assert statuses(client, workers["train"]) == {"RUNNING"}

    kill(workers["train"])  # it has no watchdog: the next stage closes its runs
    time.sleep(2)
    assert statuses(client, workers["train"]) == {"RUNNING"}
    params = config.Params()
    params.tracking = sections.Tracking(experiment="workers")
    with tracking.stage("evaluate", params, []):
        assert statuses(client, workers["train"]) == {"KILLED"}
    assert statuses(client, workers["fetch"]) == statuses(client, workers["prepare"]) == {"FINISHED"}
