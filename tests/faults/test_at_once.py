"""Two at once: lines in one folder, experiments in a queue."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from benchmarks.kill_line import PARAMS, make_images
from tests.faults.conftest import Whole
from tests.project import Project, begin
from tests.repro import Repro, differences


@contextmanager
def queue_workers(project: Project, jobs: int) -> Iterator[None]:
    """Workers of DVC's queue, which are ended here: its own order to end can be lost where the machine is busy.

    They hold on to the output of the command that starts them.
    """
    command = [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=project.root, env=project.environment, check=True, **silent)
    try:
        yield
    finally:
        for worker in (project.root / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.json"):
            about = json.loads(worker.read_text(encoding="utf-8"))
            if about["returncode"] is None:
                with suppress(ProcessLookupError):  # it has ended since
                    os.kill(about["pid"], signal.SIGTERM)


def test_two_lines_in_one_folder_do_each_other_no_harm(whole: Whole, tmp_path: Path) -> None:
    project = begin(tmp_path, make_images, PARAMS)
    lines = [Repro(project), Repro(project)]
    codes = [line.ends() for line in lines]
    assert 0 in codes, [line.text for line in lines]
    for code, line in zip(codes, lines, strict=True):
        if code:  # DVC's own refusal
            assert "lock" in line.text or "busy" in line.text, line.text
    again = Repro(project)
    assert (again.ends(), again.began) == (0, []), again.text
    assert differences(project.root, whole.project.root) == []


def test_two_queued_experiments_at_once_end_right_and_share_the_store(tmp_path: Path) -> None:
    project = begin(tmp_path, make_images, PARAMS)
    project.dvc("repro", "augment")
    project.commit("Augment")
    for epochs in (3, 4):
        project.dvc("exp", "run", "--queue", "--name", f"epochs-{epochs}", "--set-param", f"finetune.epochs={epochs}")
    with queue_workers(project, 2):
        deadline = time.monotonic() + 600
        while (status := project.dvc("queue", "status")) and ("Running" in status or "Queued" in status):
            assert time.monotonic() < deadline, status
            time.sleep(5)
    assert status.count("Success") == 2, status
    with closing(sqlite3.connect(project.root / "mlruns" / "mlflow.db")) as database:
        found = database.execute(
            "select status, count(distinct metrics.step) from runs join metrics on metrics.run_uuid = runs.run_uuid"
            " and metrics.key = 'val_loss' where runs.name like 'trial %' group by runs.run_uuid"
        ).fetchall()
    assert set(found) == {("FINISHED", 3), ("FINISHED", 4)}
    shown = json.loads(project.dvc("exp", "show", "--json"))
    assert "epochs-3" in json.dumps(shown)
    assert "epochs-4" in json.dumps(shown)
