"""What a killed stage goes on from: under which key it lies, who has it, when it goes."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from transferline import artifacts, config, fitting, sections
from transferline.errors import UserError
from transferline.tracking import resume

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".cache" / "resume" / "train"


def params(epochs: int = 3, experiment: str = "a") -> config.Params:
    made = config.Params()
    made.seed, made.train = 1, fitting.Train(epochs=epochs)
    made.tracking = sections.Tracking(experiment=experiment)
    return made


def leave(inputs: dict[str, str], stage: str = "train", **changed) -> Path:
    """A checkpoint of an attempt that was killed."""
    with suppress(SystemExit), resume.kept(stage, params(**changed), inputs) as kept:
        kept.remember("run", "parent")
        (kept.folder / "last.ckpt").write_text("checkpoint")
        raise SystemExit(143)
    return kept.folder


def finds(inputs: dict[str, str], stage: str = "train", **changed) -> bool:
    with resume.kept(stage, params(**changed), inputs) as kept:
        assert (kept.run_id is not None) == (kept.folder / "last.ckpt").exists()
        return kept.run_id is not None


def test_it_is_found_again_and_gone_after_success(home):
    folder = leave({"data": "1"})
    assert folder.parent == home
    with resume.kept("train", params(), {"data": "1"}) as kept:
        assert kept == resume.Kept(folder, "run", "parent")
        assert (folder / "last.ckpt").exists()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "stage", "changed"),
    [
        ({"data": "2"}, "train", {}),
        ({"data": "1", "best": "1"}, "train", {}),
        ({"data": "1"}, "finetune", {}),
        ({"data": "1"}, "train", {"epochs": 4}),
    ],
)
def test_other_data_parameters_or_stage_never_find_it(home, inputs, stage, changed):
    leave({"data": "1"})
    assert not finds(inputs, stage, **changed)
    assert finds({"data": "1"})


@pytest.mark.parametrize("path", ["src/house/room.py", "pipeline/train.py"])
def test_other_code_never_finds_it(home, path):
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("x = 1\n")
    leave({})
    Path(path).write_text("x = 2\n")
    assert not finds({})


def test_other_libraries_never_find_it(home, monkeypatch):
    leave({})
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda name: "99.0")
        assert not finds({})
    assert finds({})


def test_what_is_tracked_where_changes_nothing(home):
    leave({}, experiment="a")
    assert finds({}, experiment="b")


def test_stages_that_begin_again_keep_nothing(home):
    with resume.kept("evaluate", params(), {}) as kept:
        assert kept is None
    assert not home.parent.exists()


def test_two_with_the_same_inputs_share_nothing_and_each_finds_what_was_left(home):
    with (
        suppress(SystemExit),
        resume.kept("train", params(), {}) as first,
        resume.kept("train", params(), {}) as second,
    ):
        assert second.folder.name == f"{first.folder.name}.2"
        second.remember("second", "parent")
        raise SystemExit(143)
    first.folder.rmdir()
    with resume.kept("train", params(), {}) as again:  # rather than the first name, which is free
        assert again.folder == second.folder
        assert again.run_id == "second"


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"run_id": "x"}'])
def test_a_torn_note_of_the_run_leaves_the_checkpoint(home, torn):
    folder = leave({})
    (folder / "run.json").write_text(torn)
    with resume.kept("train", params(), {}) as kept:
        assert kept == resume.Kept(folder)
        assert (folder / "last.ckpt").exists()


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86_400
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def test_what_nobody_asked_for_again_is_swept_but_not_what_is_new_or_in_use(home):
    old, new = leave({"data": "old"}), leave({"data": "new"})
    age(old, resume.KEPT_DAYS + 1)
    age(new, resume.KEPT_DAYS - 1)
    with suppress(SystemExit), resume.kept("train", params(), {"data": "used"}) as used:
        age(used.folder, resume.KEPT_DAYS + 1)
        with resume.kept("train", params(), {"data": "other"}):
            assert {path.name for path in home.iterdir() if path.is_dir()} >= {new.name, used.folder.name}
            assert not old.exists()
        assert used.folder.exists()
        raise SystemExit(143)


def test_what_is_old_but_asked_for_is_found(home):
    age(leave({}), resume.KEPT_DAYS + 1)
    assert finds({})


def test_a_folder_that_cannot_be_made_is_one_message(home):
    home.parent.mkdir(parents=True)
    home.write_text("a file in its place")
    with pytest.raises(UserError, match=r"resume/train cannot be written"), resume.kept("train", params(), {}):
        pass


def test_a_stage_goes_on_in_its_run_and_logs_each_figure_once(project):
    project.passes("fetch", "tune")
    with suppress(SystemExit), project.stage("train") as first:
        assert not first.resumed
        assert first.steps() == frozenset()
        first.log_metrics({"images": 3})
        for epoch in range(2):
            first.log_metrics({"train_loss": 1 / (epoch + 1), "f1/a@b": 0.5}, step=epoch)
        (first.resume / "last.ckpt").write_text("checkpoint")
        raise SystemExit(143)
    assert project.run(first.run_id).info.status == "KILLED"
    with project.stage("train") as again:
        assert (again.run_id, again.parent_id, again.resume) == (first.run_id, first.parent_id, first.resume)
        assert again.resumed
        assert again.steps() == {0, 1}
        for run_id in (again.run_id, again.parent_id):
            assert project.run(run_id).info.status == "RUNNING"
            assert "transferline.error" not in project.run(run_id).data.tags
        for epoch in range(3):
            again.log_metrics({"train_loss": 1 / (epoch + 1), "f1/a@b": 0.5}, step=epoch)
        again.log_metrics({"images": 3})
    for name, steps in {"train_loss": [0, 1, 2], "f1/a_b": [0, 1, 2], "images": [0]}.items():
        assert [figure.step for figure in project.client.get_metric_history(again.run_id, name)] == steps
    ended = project.run(again.run_id)
    assert ended.info.status == project.run(again.parent_id).info.status == "FINISHED"
    assert ended.data.tags["transferline.resumed"] == "1"
    assert not again.resume.exists()
    assert artifacts.read_run("train").run_id == first.run_id
    assert set(project.children(again.parent_id)) == {"fetch", "tune", "train"}


def test_how_often_a_run_was_gone_on_with_is_counted(project):
    for _ in range(3):
        run = project.fails("tune", ValueError("broken"))
    assert project.run(run.run_id).data.tags["transferline.resumed"] == "2"
    assert project.run(run.run_id).info.status == "FAILED"


@pytest.mark.parametrize("lost", ["deleted", "finished", "elsewhere", "its parent"])
def test_where_the_run_cannot_be_gone_on_with_a_new_one_has_the_checkpoint(project, lost):
    first = project.fails("train", SystemExit(143))
    if lost == "deleted":
        project.client.delete_run(first.run_id)
    elif lost == "finished":
        project.client.set_terminated(first.run_id, "FINISHED")
    elif lost == "its parent":
        project.client.delete_run(first.parent_id)
    else:
        project.experiment += " elsewhere"
    with project.stage("train") as again:
        assert again.run_id != first.run_id
        assert (again.resume, again.resumed, again.steps()) == (first.resume, False, frozenset())
        note = json.loads((again.resume / "run.json").read_text())
        assert note == {"run_id": again.run_id, "parent_id": again.parent_id}


def test_a_resumed_stage_tells_of_a_new_model_name_nothing_and_runs(project, monkeypatch):
    first = project.fails("train", SystemExit(143))
    changed = project.params()
    changed.tracking = sections.Tracking(experiment=project.experiment, registered_model="another")
    monkeypatch.setattr(project, "params", lambda: changed)  # of no effect here; MLflow refuses to change a parameter
    assert project.passes("train").run_id == first.run_id


def test_a_stage_gone_on_with_after_an_edit_elsewhere_stays_beneath_its_parent_and_the_line_links_to_it(project):
    project.passes("fetch")
    first = project.fails("train", SystemExit(143))
    project.edit()
    assert project.passes("train").parent_id == first.parent_id
    evaluate = project.passes("evaluate")
    assert evaluate.parent_id != first.parent_id
    assert set(project.children(evaluate.parent_id)) == {"fetch (cached)", "train (cached)", "evaluate"}
