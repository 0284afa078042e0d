"""What a stage's run holds, and the status it ends with."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna import TrialPruned

from transferline import artifacts, sections, tracking
from transferline.errors import UserError
from transferline.tracking import store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def test_parameters_are_logged_flat_and_whole(project):
    fetch = project.passes("fetch")
    run = project.run(fetch.run_id)
    assert run.data.params["tracking.experiment"] == project.experiment
    assert json.loads(project.artifact(fetch.run_id, "params.json").read_text()) == project.params().resolved()


def test_a_value_too_long_for_mlflow_is_cut(project):
    with project.stage("fetch") as run, run.child("trial", {"long": "x" * 6001, "fits": "y" * 6000}) as trial:
        pass
    logged = project.run(trial.run_id).data.params
    assert len(logged["long"]) == 6000
    assert logged["long"].endswith("(cut)")
    assert logged["fits"] == "y" * 6000


def test_inputs_are_hashed_into_tags_data_sets_and_the_record(project):
    Path("data").mkdir()
    Path("data/a.txt").write_text("a")
    with project.stage("fetch", (Path("data"),)) as run:
        pass
    digest = artifacts.sha256(Path("data"))
    logged = project.run(run.run_id)
    assert logged.data.tags["input.data"] == digest
    (used,) = (entry.dataset for entry in logged.inputs.dataset_inputs)
    assert (used.name, json.loads(used.source)["uri"]) == ("data", "data")
    assert digest.startswith(used.digest)
    record = artifacts.read_run("fetch")
    assert record == artifacts.RunRecord("fetch", run.run_id, run.parent_id, {"data": digest})


def test_stage_is_named_in_the_tags(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "fetch@1")
    tags = project.run(project.passes("fetch").run_id).data.tags
    assert tags["transferline.stage"] == "fetch"
    assert tags["dvc.stage"] == "fetch@1"
    assert tags["mlflow.source.git.commit"] == "unknown"


def test_metrics_with_any_class_name_and_any_value(project):
    with project.stage("fetch") as run:
        run.log_metrics({"f1/a@b[c]": 0.5, "nothing": math.nan, "endless": math.inf}, step=3)
    logged = project.run(run.run_id).data.metrics
    assert logged["f1/a_b_c_"] == 0.5
    assert math.isnan(logged["nothing"])
    assert project.client.get_metric_history(run.run_id, "f1/a_b_c_")[0].step == 3


def test_more_entries_than_one_call_takes(project):
    with project.stage("fetch") as run, run.child("trial", {f"p{i}": i for i in range(101)}) as trial:
        run.log_metrics({f"m{i}": i for i in range(1001)})
    assert len(project.run(run.run_id).data.metrics) == 1001
    assert len(project.run(trial.run_id).data.params) == 101


def test_artifacts_are_filed_under_their_own_path(project):
    folder = Path("reports/fetch/deep")
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    Path("b.txt").write_text("b")
    with project.stage("fetch") as run:
        run.log_artifacts(Path("reports/fetch"), Path("b.txt").absolute())
    assert project.artifact(run.run_id, "reports/fetch/deep/a.txt").read_text() == "a"
    assert project.artifact(run.run_id, "b.txt").read_text() == "b"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("wrong"), "FAILED"),
        (RuntimeError("wrong"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_a_stage_that_does_not_end_well_says_so_and_leaves_no_record(project, error, status):
    failed = project.fails("fetch", error)
    for run_id in (failed.run_id, failed.parent_id):
        assert project.run(run_id).info.status == status
        assert type(error).__name__ in project.run(run_id).data.tags["transferline.error"]
    assert artifacts.read_run("fetch") is None


def test_a_failure_before_the_stage_has_its_run_closes_the_parent(project, monkeypatch):
    parents = []

    def interrupted(client: object, parent, stage: str) -> None:
        parents.append(parent.info.run_id)
        raise KeyboardInterrupt

    monkeypatch.setattr("transferline.tracking.lineage.link_reused", interrupted)
    with pytest.raises(KeyboardInterrupt), project.stage("fetch"):
        pass
    assert project.run(parents[0]).info.status == "KILLED"


def test_a_store_that_fails_does_not_hide_why_the_stage_failed(project, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mlflow.MlflowClient.set_terminated", broken)
    project.fails("fetch", UserError("wrong"))


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (TrialPruned(), "FINISHED"), (ValueError(), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_trial_ends_with_a_status_of_its_own(project, error, status):
    with project.stage("tune") as run:
        expected = pytest.raises(type(error)) if error else nullcontext()
        with expected, run.child("trial 0", {"lr": 0.1}) as trial:
            if error is not None:
                raise error
    ended = project.run(trial.run_id)
    assert ended.info.status == status
    assert ended.data.tags["mlflow.parentRunId"] == run.run_id
    assert ended.data.params == {"lr": "0.1"}
    assert ("pruned" in ended.data.tags) == isinstance(error, TrialPruned)
    assert project.run(run.run_id).info.status == "FINISHED"


def test_a_run_named_in_the_environment_is_left_alone(project, monkeypatch):
    other = project.passes("fetch")
    monkeypatch.setenv("MLFLOW_RUN_ID", other.run_id)
    prepare = project.passes("prepare")
    assert prepare.run_id != other.run_id
    assert project.run(other.run_id).data.metrics == {"figure": len("fetch")}


def test_a_signal_just_as_mlflow_has_made_the_run_leaves_none_running(project, monkeypatch):
    made, plain = [], MlflowClient(tracking_uri=store.uri())

    class Interrupted(type(project.client)):
        def create_run(self, *arguments, **options):
            made.append(super().create_run(*arguments, **options).info.run_id)
            if options["run_name"] == "fetch":
                raise SystemExit(143)
            return self.get_run(made[-1])

    monkeypatch.setattr("transferline.tracking.store.connect", lambda: Interrupted(plain, store.uri(), store.place()))
    with pytest.raises(SystemExit), project.stage("fetch"):
        pass
    assert [project.run(run_id).info.status for run_id in made] == ["KILLED", "KILLED"]


def test_no_secret_reaches_the_tags_of_a_run_that_failed(project, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh")
    failed = project.fails("fetch", RuntimeError("no answer from http://ann:pass-word@host for abcdefgh"))
    tag = project.run(failed.run_id).data.tags["transferline.error"]
    assert tag == "RuntimeError: no answer from http://ann:***@host for ***"


def test_no_secret_reaches_parameters_or_their_file(project, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", 'abc"defgh')
    params = project.params()
    params.data = sections.Data(root='mount/abc"defgh')
    with (
        tracking.stage("fetch", params, inputs=[]) as run,
        run.child("trial", {"address": "x://ann:word-1@host"}) as trial,
    ):
        run.set_tags({"note": 'abc"defgh'})
    logged = project.run(run.run_id).data
    assert (logged.params["data.root"], logged.tags["note"]) == ("mount/***", "***")
    assert json.loads(project.artifact(run.run_id, "params.json").read_text())["data"]["root"] == "mount/***"
    assert project.run(trial.run_id).data.params["address"] == "x://ann:***@host"
