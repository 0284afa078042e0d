"""One `dvc repro` that can be killed, and what its outputs are compared by."""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

import psutil

from tests.clones import contents
from tests.project import Project
from transferline.artifacts import read_json

Target = Literal["stage", "dvc", "all"]
COMPARED = (  # byte for byte, ids aside: tune's reports tell of the trials that were killed, others of times
    "data/prepared/manifest.parquet",
    "data/augmented",
    "models/head",
    "models/finetuned",
    "reports/evaluate/metrics.json",
    "reports/evaluate/predictions.parquet",
    "models/onnx",
)


class Repro(threading.Thread):
    """One `dvc repro`, read line by line as it runs.

    Attributes:
        began: (stage, seconds since the start) in order.
        text: all that was printed.
        ended: seconds after which nothing more was.
    """

    def __init__(self, project: Project) -> None:
        super().__init__(daemon=True)
        self.began: list[tuple[str, float]] = []
        self.text, self.started, self.ended = "", time.perf_counter(), 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project.root,
            env=project.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                self.text += line
                if line.startswith("Running stage"):
                    self.began.append((line.split("'")[1], time.perf_counter() - self.started))
        self.ended = time.perf_counter() - self.started

    def ends(self) -> int:
        """The exit code, once all is read; an orphan would hold the pipe for a while."""
        code = self.process.wait()
        self.join(timeout=10)
        return code

    def reaches(self, stage: str) -> bool:
        """Wait until that stage has begun; False where the line ended before."""
        while self.is_alive() and stage not in dict(self.began):
            time.sleep(0.01)
        return stage in dict(self.began)

    def strike(self, target: Target) -> None:
        """SIGKILL to the stage, to dvc, or to dvc and all that it started; wait for dvc's end, not for an orphan's."""
        dvc = psutil.Process(self.process.pid)
        below = dvc.children(recursive=True)
        stage = [one for one in below if any(part.startswith("pipeline.") for part in _command(one))][:1]
        for one in {"stage": stage or [dvc], "dvc": [dvc], "all": [dvc, *below]}[target]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def epochs(project: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(stage, metric) -> (step, value) in the runs that train and finetune have their outputs of, if here."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as database:
        for stage in ("train", "finetune"):
            run = read_json(project / "runs" / f"{stage}.json")["run_id"]
            asked = "select key, step, value from metrics where run_uuid = ? order by step"
            for key, step, value in database.execute(asked, (run,)):
                found.setdefault((stage, key), []).append((step, value))
    return found


def differences(project: Path, whole: Path) -> list[str]:
    """What the outputs and the metrics of a line differ in from the undisturbed one."""
    ours, theirs = contents(project), contents(whole)
    found = [path for path in ours | theirs if path.startswith(COMPARED) and ours.get(path) != theirs.get(path)]
    logged = epochs(whole)
    return found + [
        f"MLflow: {stage} {key}" for (stage, key), rows in epochs(project).items() if rows != logged[stage, key]
    ]
