"""The benchmark of the recipe: what is kept, how stages are timed, and its statistics, on made-up numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import suite, suite_report, suite_sides
from transferline.errors import UserError


def records(images: int, right: dict[str, int], losses: tuple[float, float] = (0.5, 0.4)) -> dict[str, Any]:
    """Two classes in turns; each side is right about its first `right` images."""
    truth = {f"{number}.png": "ab"[number % 2] for number in range(images)}
    other = {"a": "b", "b": "a"}
    made: dict[str, Any] = {
        side: {
            "predicted": {path: name if at < count else other[name] for at, (path, name) in enumerate(truth.items())}
        }
        for side, count in right.items()
    }
    made["line"] |= {"truth": truth, "classes": ["a", "b"], "seconds": 90.0, "freeze_depth": 3, "key": "x"}
    for side, loss in zip(suite_report.PROBES, losses, strict=True):
        made[side]["log_loss"] = loss
    return made


RIGHT = {"line": 90, "probe_last": 60, "probe_all": 70}


def test_the_preferred_probe_is_that_of_better_log_loss_and_the_better_one_that_of_better_answers() -> None:
    split = suite_report.read_split(records(100, RIGHT, losses=(0.1, 0.2)))
    (split,) = suite_report.with_better([split])
    assert np.array_equal(split.predicted["preferred_probe"], split.predicted["probe_last"])
    assert np.array_equal(split.predicted["better_probe"], split.predicted["probe_all"])


def test_a_clear_difference_is_found_with_its_size_and_equal_sides_have_none() -> None:
    splits = [suite_report.read_split(records(100, RIGHT | {"fastai": 90}))]
    gap = suite_report.paired([splits], "probe_all")
    assert gap["accuracy"] == pytest.approx(0.2)
    assert gap["accuracy_interval"][0] < 0.2 < gap["accuracy_interval"][1]
    assert gap["accuracy_interval"][0] > 0 < gap["macro_f1_interval"][0]
    assert gap["p_value"] < 0.001
    same = suite_report.paired([splits], "fastai")
    assert (same["accuracy"], same["p_value"], same["macro_f1_interval"]) == (0.0, 1.0, [0.0, 0.0])


def test_accuracy_is_pooled_over_images_and_macro_f1_over_sets() -> None:
    large = suite_report.read_split(records(300, {"line": 300, "probe_last": 0, "probe_all": 0}))
    small = suite_report.read_split(records(100, {"line": 50, "probe_last": 50, "probe_all": 50}))
    gap = suite_report.paired([[large], [small]], "probe_all")
    assert gap["images"] == 400
    assert gap["accuracy"] == pytest.approx(0.75)
    assert gap["macro_f1"] == pytest.approx(0.5)


def test_an_image_that_two_seeds_test_counts_as_one_in_the_intervals() -> None:
    split = suite_report.read_split(records(100, RIGHT))
    once, twice = suite_report.paired([[split]], "probe_all"), suite_report.paired([[split, split]], "probe_all")
    assert once["accuracy_interval"] == twice["accuracy_interval"]
    assert once["macro_f1_interval"] == twice["macro_f1_interval"]


def test_a_side_of_the_first_seed_alone_is_compared_on_that_seed() -> None:
    splits = [suite_report.read_split(records(100, right)) for right in (RIGHT | {"fastai": 50}, RIGHT)]
    assert suite_report.paired([splits], "fastai")["images"] == 100
    assert suite_report.means(splits, "fastai")["accuracy"] == pytest.approx(0.5)


def test_who_wins_is_said_by_name_only_beyond_chance() -> None:
    sure = {"accuracy": -0.1, "p_value": 0.01, "macro_f1": 0.02, "macro_f1_interval": [-0.01, 0.05]}
    assert suite_report.winner(sure, "fastai") == "fastai (accuracy)"
    assert suite_report.winner(sure | {"p_value": 0.2}, "fastai") == "nobody"
    assert (
        suite_report.winner(sure | {"p_value": 0.2, "macro_f1_interval": [0.01, 0.05]}, "fastai") == "line (macro-F1)"
    )


def test_the_tables_have_every_set_and_the_json_no_image() -> None:
    seeds = {42: records(100, RIGHT | {"fastai": 50}), 43: records(100, RIGHT)}
    content = suite_report.summary({"leaves": seeds, "cells": {42: records(40, RIGHT)}})
    text = suite_report.tables(content)
    assert "| leaves | 100 | 0.900 / 0.900 | 0.600 / 0.600 |" in text
    assert "| cells | 40 | 1.000 / 1.000 |" in text
    assert "| 1.5 | 3, 3 |" in text
    assert ".png" not in json.dumps(content)


def test_a_record_counts_only_for_the_key_it_was_written_with(tmp_path: Path) -> None:
    store = suite.Store(tmp_path)
    assert store.read("line", "one") is None
    written = store.write("line", "one", {"seconds": 1.0})
    assert store.read("line", "one") == written
    assert store.read("line", "two") is None


class Sides:
    """Stands in for what takes minutes, and notes what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.calls: list[str] = []
        self.recipe, self.manifest, self.seconds = "recipe", "manifest", 60.0
        project = type("Project", (), {"root": tmp_path / "lines" / "project"})
        monkeypatch.setattr(suite.lineage, "state_key", lambda: self.recipe)
        for name, result in {
            "lay_out": project,
            "repro": None,
            "line": {},
            "fastai": {"epochs": 1},
            "probes": {"probe_last": {"C": 1.0}, "probe_all": {"C": 2.0}},
        }.items():
            monkeypatch.setattr(suite_sides, name, lambda *_, name=name, result=result: self.call(name, result))

    def call(self, name: str, result: Any) -> Any:
        self.calls.append(name)
        if name == "lay_out":
            result.root.mkdir(parents=True)
        return {"manifest": self.manifest, "seconds": self.seconds} if name == "line" else result


SIDES = ["fastai", "probe_last", "probe_all"]


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sides:
    return Sides(monkeypatch, tmp_path)


def finish(folder: Path, again: bool = False) -> dict[str, Any]:
    return suite.finish(suite_sides.Case("set", 42, None), folder, folder / "records", SIDES, again)


def test_what_is_done_is_not_repeated(sides: Sides, tmp_path: Path) -> None:
    first = finish(tmp_path)
    assert sides.calls == ["lay_out", "line", "fastai", "probes"]
    assert finish(tmp_path) == first
    assert len(sides.calls) == 4
    finish(tmp_path, again=True)
    assert sides.calls[4:] == ["lay_out", "line", "fastai", "probes"]


def test_a_benchmark_that_was_stopped_runs_what_is_missing(sides: Sides, tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "records/set-42/fastai.json").unlink()
    sides.calls.clear()
    finish(tmp_path)
    assert sides.calls == ["lay_out", "repro", "fastai"]


def test_another_recipe_keeps_the_other_sides_of_the_same_split(sides: Sides, tmp_path: Path) -> None:
    finish(tmp_path)
    sides.recipe = "another"
    sides.calls.clear()
    finish(tmp_path)
    assert sides.calls == ["lay_out", "line"]
    sides.recipe, sides.manifest = "a third", "another split"
    finish(tmp_path)
    assert sides.calls[2:] == ["lay_out", "line", "fastai", "probes"]


def test_another_backbone_makes_every_side_anew(sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path)
    other = suite.config.load("model")
    other.model = other.model.model_copy(update={"backbone": "resnet18"})
    monkeypatch.setattr(suite.config, "load", lambda *_: other)
    sides.recipe = "another"
    sides.calls.clear()
    finish(tmp_path)
    assert sides.calls == ["lay_out", "line", "fastai", "probes"]


@pytest.mark.parametrize(("seconds", "calls"), [(59.0, []), (61.0, ["fastai"])])
def test_fastai_is_given_no_less_time_than_the_line_takes(
    sides: Sides, tmp_path: Path, seconds: float, calls: list[str]
) -> None:
    finish(tmp_path)
    sides.recipe, sides.seconds = "another", seconds
    sides.calls.clear()
    assert finish(tmp_path)["fastai"]["granted"] == max(seconds, 60.0)
    assert sides.calls == ["lay_out", "line", *calls]


def test_other_defaults_are_another_recipe(sides: Sides, tmp_path: Path) -> None:
    assert suite.nested(["finetune.refit=false", "model.head.features=last", "finetune.epochs=3", "seed=1"]) == {
        "finetune": {"refit": False, "epochs": 3},
        "model": {"head": {"features": "last"}},
        "seed": 1,
    }
    with pytest.raises(UserError, match=r"finetune\.refit has no value"):
        suite.nested(["finetune.refit"])
    finish(tmp_path)
    sides.calls.clear()
    case = suite_sides.Case("set", 42, None, {"finetune": {"refit": False}})
    suite.finish(case, tmp_path, tmp_path / "records", SIDES, again=False)
    assert sides.calls == ["lay_out", "line"]


def test_stages_are_timed_from_the_output_of_dvc_and_restored_ones_are_told_apart() -> None:
    lines = [
        (0.5, "Stage 'prepare' is cached - skipping run, checking out outputs\n"),
        (1.0, "Running stage 'augment':\n"),
        (1.1, "> python -m pipeline.augment\n"),
        (4.0, "Running stage 'tune':\n"),
        (9.0, ""),
    ]
    assert list(suite_sides.stage_seconds(lines)) == [("prepare", None), ("augment", 3.0), ("tune", 5.0)]


def test_a_probe_tells_classes_apart_and_says_how_well(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = generator.normal(size=(60, 8))
    features[np.arange(60), labels] += 4
    noise = generator.normal(size=(60, 8))
    predicted, c, loss = suite_sides.probe(features[:48], labels[:48], np.arange(48), features[48:], 0)
    assert (predicted == labels[48:]).mean() > 0.9
    assert c in suite_sides.CS
    assert loss < suite_sides.probe(noise[:48], labels[:48], np.arange(48), noise[48:], 0)[2]


def test_data_sets_are_the_folders_and_the_sample(tmp_path: Path) -> None:
    (tmp_path / "leaves").mkdir()
    (tmp_path / "cells").mkdir()
    (tmp_path / "README.md").touch()
    assert list(suite.data_sets(tmp_path, [], sample=True)) == ["cells", "leaves", "sample"]
    assert list(suite.data_sets(tmp_path, ["leaves"], sample=False)) == ["leaves"]
    with pytest.raises(UserError, match="there is no data set 'sample'"):
        suite.data_sets(tmp_path, ["sample"], sample=False)
    with pytest.raises(UserError, match="holds no data sets"):
        suite.data_sets(tmp_path / "leaves", [], sample=True)
