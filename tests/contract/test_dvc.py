"""dvc.yaml says what the scripts do: deps, params, outs and order are computed and compared."""

import ast
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.contract.closure import ROOT, closure
from transferline.artifacts import TRAINING, Best
from transferline.config import SECTIONS
from transferline.tracking import lineage

PIPELINE: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = PIPELINE["stages"]
# Off unless it is asked for: another file, which the line does not read.
ASIDE: dict[str, Any] = YAML(typ="safe").load((ROOT / "compare" / "dvc.yaml").read_text(encoding="utf-8"))
EVERY: dict[str, Any] = STAGES | ASIDE["stages"]
ORDER = ["fetch", "prepare", "augment", "tune", "train", "finetune", "evaluate", "export", "register"]
ON_DEMAND = ["compare", "lr_find"]  # scripts of the command line; the first is a stage, too
BESIDE = ["sync", "model"]  # scripts of the command line that open no run
BEST = "models/tune/best.json"


def script(stage: str) -> Path:
    return ROOT / "pipeline" / f"{stage}.py"


def calls(stage: str, name: str) -> list[ast.Call]:
    tree = ast.parse(script(stage).read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def names(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def written(stage: str) -> list[str]:
    return names([out for kind in ("outs", "metrics") for out in EVERY[stage].get(kind, [])])


def test_the_stages_are_those_of_the_design() -> None:
    assert list(STAGES) == ORDER
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"} == {*ORDER, *ON_DEMAND, *BESIDE}
    assert list(ASIDE["stages"]) == ["compare"]
    assert (*ORDER,) == lineage.STAGES
    assert set(ON_DEMAND) == set(lineage.ON_DEMAND)


def test_what_runs_on_demand_is_no_part_of_the_line() -> None:
    """Nor does anything that DVC pulls or checks out come of it."""
    (stage,) = ASIDE["stages"].values()
    assert stage["wdir"] == ".."
    assert [list(out.values()) for out in stage["outs"]] == [[{"cache": False}]] * 2
    beside = set(written("compare"))
    assert not [dep for stage in STAGES.values() for dep in stage["deps"] if dep in beside]
    for name in ON_DEMAND:
        assert not [stage for stage in ORDER if name in STAGES[stage]["params"]]


@pytest.mark.parametrize("stage", EVERY)
def test_deps_contain_the_code_that_the_script_imports_and_no_other(stage: str) -> None:
    needed = {path.relative_to(ROOT).as_posix() for path in closure(script(stage)) | closure(script("__init__"))}
    declared = {dep for dep in EVERY[stage]["deps"] if dep.endswith(".py")}
    assert declared == needed


@pytest.mark.parametrize("stage", EVERY)
def test_params_are_the_sections_that_the_script_loads(stage: str) -> None:
    (call,) = calls(stage, "config.load")
    loaded = {ast.literal_eval(argument) for argument in call.args}
    assert loaded <= set(SECTIONS)
    assert {entry for entry in EVERY[stage]["params"] if isinstance(entry, str)} == loaded


@pytest.mark.parametrize("stage", ORDER)
def test_whoever_reads_best_json_declares_its_values(stage: str) -> None:
    reads = "read_best(" in script(stage).read_text(encoding="utf-8")
    declared = [entry[BEST] for entry in STAGES[stage]["params"] if isinstance(entry, dict)]
    values = sorted(set(Best.__dataclass_fields__) - {"value", "study", "run_id"})
    assert [sorted(keys) for keys in declared] == ([values] if reads else [])


@pytest.mark.parametrize("stage", EVERY)
def test_each_stage_runs_its_script_under_its_name(stage: str) -> None:
    assert EVERY[stage]["cmd"] == f"python -m pipeline.{stage}"
    (call,) = calls(stage, "tracking.stage")
    assert ast.literal_eval(call.args[0]) == stage
    assert f"runs/{stage}.json" in written(stage)


def test_data_flows_one_way() -> None:
    for stage in EVERY:
        number = ORDER.index(lineage.ON_DEMAND[stage]) + 1 if stage in ON_DEMAND else ORDER.index(stage)
        earlier = [out for other in ORDER[:number] for out in written(other)]
        data = [dep for dep in EVERY[stage]["deps"] if dep.startswith(("data/", "models/", "reports/"))]
        for dep in data:
            assert any(dep == out or dep.startswith(f"{out}/") for out in earlier), f"{stage} reads {dep}"


def test_nothing_depends_on_run_records() -> None:
    assert not [dep for stage in EVERY.values() for dep in stage["deps"] if dep.startswith("runs")]


@pytest.mark.parametrize("stage", ["tune", "train", "finetune"])
def test_training_is_not_woken_by_the_test_split(stage: str) -> None:
    arrays = [dep for dep in STAGES[stage]["deps"] if dep.startswith("data/")]
    assert sorted(arrays) == sorted(path.as_posix() for path in TRAINING)
    assert not [dep for dep in arrays if "test" in dep]


@pytest.mark.parametrize("stage", ["tune", "train", "finetune", "lr_find"])
def test_training_cannot_see_the_test_split(stage: str) -> None:
    (call,) = calls(stage, "tracking.stage")
    inputs = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
    assert "TRAINING" in inputs
    assert "ARRAYS" not in inputs
    read = {ast.literal_eval(call.args[0]) for call in calls(stage, "read_arrays")}
    assert read == {"train", "val"}


def test_changed_finetuning_wakes_tune_whose_trials_are_trained_so() -> None:
    assert [stage for stage in ORDER if "finetune" in STAGES[stage]["params"]] == ["tune", "finetune"]
    assert [stage for stage in ORDER if "export" in STAGES[stage]["params"]] == ["export"]


def test_metrics_and_plots_are_declared_where_stages_write_them() -> None:
    assert names(STAGES["evaluate"]["metrics"]) == ["reports/evaluate/metrics.json"]
    outs = [out for stage in ORDER for out in written(stage)]
    for plot in PIPELINE["plots"]:
        declared = names([plot])[0]
        options = {} if isinstance(plot, str) else plot[declared]
        files = list(options["y"]) if isinstance(options.get("y"), dict) else [declared]
        assert all(any(file == out or file.startswith(f"{out}/") for out in outs) for file in files), declared
