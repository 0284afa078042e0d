"""One tree per state of the line: which parent a stage joins, and what is linked to it."""

import json
from pathlib import Path

import pytest

from transferline.tracking import lineage

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def test_first_stage_makes_the_parent_and_the_next_ones_join_it(project):
    fetch = project.passes("fetch")
    prepare = project.passes("prepare")
    parent = project.run(fetch.parent_id)
    assert prepare.parent_id == fetch.parent_id
    assert set(project.children(fetch.parent_id)) == {"fetch", "prepare"}
    assert parent.info.run_name == f"pipeline {lineage.state_key()[:6]}"
    assert parent.info.status == "FINISHED"


def test_parent_is_shown_running_while_a_stage_runs(project):
    project.passes("fetch")
    with project.stage("prepare") as run:
        assert project.run(run.parent_id).info.status == "RUNNING"


def test_a_new_state_gets_a_new_parent_with_links_to_the_reused_runs(project):
    fetch = project.passes("fetch")
    with project.stage("prepare", (Path("params.yaml"),)) as prepare:
        prepare.log_metrics({"figure": 7})
    project.edit()
    augment = project.passes("augment")
    assert augment.parent_id != fetch.parent_id
    children = project.children(augment.parent_id)
    assert set(children) == {"fetch (cached)", "prepare (cached)", "augment"}
    link = children["prepare (cached)"]
    assert link.info.status == "FINISHED"
    assert link.data.tags["transferline.cached_from"] == prepare.run_id
    assert f"/runs/{prepare.run_id}" in link.data.tags["mlflow.note.content"]
    assert link.data.params["seed"] == "1"
    assert link.data.metrics["figure"] == 7
    assert [entry.dataset.name for entry in link.inputs.dataset_inputs] == ["params.yaml"]


def test_links_are_made_once(project):
    project.passes("fetch")
    project.edit()
    project.passes("prepare")
    augment = project.passes("augment")
    runs = project.client.search_runs(
        [project.run(augment.run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{augment.parent_id}'"
    )
    assert sorted(run.info.run_name for run in runs) == ["augment", "fetch (cached)", "prepare"]


def test_a_stage_run_again_in_the_same_state_gets_a_parent_of_its_own(project):
    first = project.passes("fetch", "prepare")
    again = project.passes("prepare")
    assert again.parent_id != first.parent_id
    assert set(project.children(again.parent_id)) == {"fetch (cached)", "prepare"}
    assert project.passes("augment").parent_id == again.parent_id  # the newest of the two


@pytest.mark.parametrize("reused", [(), ("fetch",)])
def test_a_failed_stage_is_tried_again_beneath_the_same_parent(project, reused):
    if reused:
        project.passes(*reused)
        project.edit()
    name = "prepare" if reused else "fetch"
    failed = project.fails(name, ValueError("broken"))
    assert project.run(failed.parent_id).info.status == "FAILED"
    again = project.passes(name)
    assert again.parent_id == failed.parent_id
    assert again.run_id != failed.run_id
    assert project.run(failed.parent_id).info.status == "FINISHED"
    assert project.run(failed.run_id).info.status == "FAILED"


def test_an_on_demand_stage_stands_beneath_the_parent_of_its_state_each_time(project):
    line = project.passes("fetch", "prepare")
    first, again = project.passes("compare"), project.passes("compare")
    assert first.parent_id == again.parent_id == line.parent_id
    assert first.run_id != again.run_id
    run = project.run(again.run_id)
    assert run.info.run_name == "compare"
    assert run.data.tags["transferline.stage"] == "compare"
    assert run.data.tags["mlflow.source.name"] == "pipeline/compare.py"


def test_an_on_demand_stage_joins_a_line_that_reuses_what_it_reads(project):
    project.passes("fetch", "prepare")
    project.edit()
    augment = project.passes("augment")
    assert project.passes("compare").parent_id == augment.parent_id
    names = sorted(project.children(augment.parent_id))
    assert names == ["augment", "compare", "fetch (cached)", "prepare (cached)"]


def test_the_line_goes_on_beneath_its_parent_after_an_on_demand_stage(project):
    fetch = project.passes("fetch", "prepare")
    project.passes("compare")
    assert project.passes("augment").parent_id == fetch.parent_id


def test_an_on_demand_stage_leaves_the_status_and_owner_of_the_line_as_they_are(project):
    line = project.passes("fetch")
    before = project.run(line.parent_id).data.tags
    with project.stage("compare") as run:
        assert run.parent_id == line.parent_id
        assert project.run(line.parent_id).info.status == "FINISHED"
    failed = project.fails("lr_find", ValueError("broken"))
    assert project.run(failed.run_id).info.status == "FAILED"
    assert project.run(line.parent_id).info.status == "FINISHED"
    assert project.run(line.parent_id).data.tags == before


@pytest.mark.parametrize(("name", "reads"), [("compare", ["fetch", "prepare"]), ("lr_find", ["fetch", "augment"])])
def test_in_a_new_state_an_on_demand_stage_makes_a_parent_that_the_line_does_not_join(project, name, reads):
    project.passes(*reads, "tune")
    project.edit()
    record = project.passes(name)
    own = project.run(record.parent_id)
    assert own.info.run_name == f"{name} {lineage.state_key()[:6]}"
    assert own.info.status == "FINISHED"
    assert own.data.tags["transferline.on_demand"] == name
    assert set(project.children(record.parent_id)) == {name, *(f"{stage} (cached)" for stage in reads)}
    train = project.passes("train")
    assert train.parent_id != record.parent_id
    assert set(project.children(train.parent_id)) == {"train", *(f"{stage} (cached)" for stage in (*reads, "tune"))}


def test_a_failed_stage_is_tried_again_beneath_its_parent_in_spite_of_an_on_demand_stage(project):
    failed = project.fails("fetch", ValueError("broken"))
    alone = project.fails("compare", ValueError("nothing there yet"))
    assert alone.parent_id != failed.parent_id
    assert project.run(alone.parent_id).info.status == "FAILED"
    assert project.passes("fetch").parent_id == failed.parent_id


def test_fetch_of_a_state_that_has_succeeded_begins_anew(project):
    assert project.passes("fetch").parent_id != project.passes("fetch").parent_id


def test_outputs_made_in_another_store_are_linked_by_their_id(project):
    Path("runs").mkdir()
    record = {"stage": "fetch", "run_id": "a" * 32, "parent_id": "b" * 32, "inputs": {}}
    Path("runs/fetch.json").write_text(json.dumps(record))
    prepare = project.passes("prepare")
    link = project.children(prepare.parent_id)["fetch (cached)"]
    assert link.data.tags["transferline.cached_from"] == "a" * 32
    assert "not in this MLflow store" in link.data.tags["mlflow.note.content"]


def test_an_experiment_of_dvc_names_the_parent(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-otter")
    fetch = project.passes("fetch")
    assert project.run(fetch.parent_id).info.run_name == "brave-otter"
    assert project.run(fetch.run_id).data.tags["dvc.exp"] == "brave-otter"


@pytest.mark.parametrize("path", ["params.yaml", "dvc.yaml", "src/house/room.py", "pipeline/train.py"])
def test_state_follows_the_parameters_the_stages_and_the_code(project, path):
    before = lineage.state_key()
    assert lineage.state_key() == before
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("x = 1\n")
    assert lineage.state_key() != before


def test_state_does_not_follow_outputs(project):
    before = lineage.state_key()
    Path("metrics.json").write_text("{}")
    assert lineage.state_key() == before
