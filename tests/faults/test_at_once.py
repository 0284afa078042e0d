"""Two at once: lines in one folder, experiments in a queue."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from benchmarks.kill_line import PARAMS, make_images
from tests.faults.conftest import Whole
from tests.project import begin
from tests.repro import Repro, differences


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
    project.dvc("queue", "start", "--jobs", "2")
    deadline = time.monotonic() + 600
    while (status := project.dvc("queue", "status")) and ("Running" in status or "Queued" in status):
        assert time.monotonic() < deadline, status
        time.sleep(5)
    assert status.count("Success") == 2, status
    with closing(sqlite3.connect(project.root / "mlruns" / "mlflow.db")) as database:
        found = database.execute(
            "select runs.status, count(distinct metrics.step) from runs join tags on tags.run_uuid = runs.run_uuid"
            " and tags.key = 'transferline.stage' and tags.value = 'finetune'"
            " join metrics on metrics.run_uuid = runs.run_uuid and metrics.key = 'val_loss' group by runs.run_uuid"
        ).fetchall()
    assert sorted(found) == [("FINISHED", 3), ("FINISHED", 4)]
    shown = json.loads(project.dvc("exp", "show", "--json"))
    assert "epochs-3" in json.dumps(shown)
    assert "epochs-4" in json.dumps(shown)
