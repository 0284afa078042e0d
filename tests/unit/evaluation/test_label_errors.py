"""Planted label errors are found, whatever the finetuned network has learnt by heart; nothing else is made of it."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transferline.artifacts import Arrays, SplitName
from transferline.evaluation import gallery, label_errors
from transferline.evaluation.label_errors import Judgement, LabelErrors
from transferline.model import linear_probe as probe

CLASSES = ["ant", "bee", "cat"]
COUNTS: dict[SplitName, int] = {"train": 240, "val": 60, "test": 60}


class Made:
    """Three splits with known truth, and what the judges are given.

    Args:
        wrong: share of labels that are not the truth.
        spread: of features and logits around those of their true class.
    """

    def __init__(self, wrong: float = 0.05, spread: float = 0.4, names: Sequence[str] = ()) -> None:
        rng = np.random.default_rng(4)
        centres = rng.normal(size=(3, 10))
        self.truth: dict[str, str] = {}
        self.splits: dict[SplitName, Arrays] = {}
        self.logits: dict[SplitName, np.ndarray] = {}
        for split, count in COUNTS.items():
            true = np.arange(count, dtype=np.int64) % 3
            labels = np.where(rng.random(count) < wrong, (true + rng.integers(1, 3, count)) % 3, true)
            paths = [names[row] if row < len(names) else f"{split}/{row}.png" for row in range(count)]
            images = rng.integers(0, 256, (count, 2, 4, 4, 3), dtype=np.uint8)
            self.splits[split] = Arrays(images, labels, paths, CLASSES, groups=np.arange(count, dtype=np.int64))
            self.truth |= {path: CLASSES[index] for path, index in zip(paths, true, strict=True)}
            self.logits[split] = 6 * np.eye(3)[true] + spread * rng.normal(size=(count, 3))
            if split == "train":
                self.features = (centres[true] + spread * rng.normal(size=(count, 10))).astype(np.float32)
        self.held_out: dict[SplitName, np.ndarray] = {name: self.logits[name] for name in ("val", "test")}

    def find(self, *features: np.ndarray) -> LabelErrors:
        return label_errors.find(features or [self.features], self.held_out, self.splits, 1.0, seed=0)

    def wrong(self, split: SplitName) -> set[str]:
        part = self.splits[split]
        return {path for row, path in enumerate(part.paths) if part.names(row) != [self.truth[path]]}


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


@pytest.fixture(scope="module")
def found(made: Made) -> LabelErrors:
    return made.find()


@pytest.mark.parametrize("split", COUNTS)
def test_planted_errors_are_suspected_and_little_else(made: Made, found: LabelErrors, split: SplitName) -> None:
    wrong, suspected = made.wrong(split), {one.path for one in found.suspected if one.split == split}
    assert len(wrong) >= 3
    assert len(wrong & suspected) >= 0.9 * len(wrong)
    assert len(wrong & suspected) >= 0.8 * len(suspected)


def test_the_true_class_is_suggested(made: Made, found: LabelErrors) -> None:
    planted = [one for one in found.suspected if made.truth[one.path] != one.given]
    assert all(one.suggested == made.truth[one.path] for one in planted)


def test_every_image_is_ranked_once_the_suspected_first_and_of_them_the_worst(made: Made, found: LabelErrors) -> None:
    assert sorted(one.path for one in found.ranked) == sorted(made.truth)
    order = [(not one.suspected, one.quality) for one in found.ranked]
    assert order == sorted(order)
    assert all(0 <= one.quality <= 1 for one in found.ranked)
    for one in found.ranked[:20]:
        assert made.splits[one.split].paths[one.row] == one.path
        assert made.splits[one.split].names(one.row) == [one.given]


def test_what_the_network_has_learnt_by_heart_is_still_doubted(made: Made) -> None:
    """Finetuned features that show the given label, wrong or not, alone clear every image."""
    learnt = np.eye(3, dtype=np.float32)[made.splits["train"].labels]
    wrong = made.wrong("train")
    assert not wrong & {one.path for one in made.find(learnt).suspected}
    judged = [one for one in made.find(made.features, learnt).ranked if one.split == "train"]
    worst = sorted(judged, key=lambda one: one.quality)[: len(wrong)]
    assert len({one.path for one in worst} & wrong) >= 0.8 * len(wrong)


def test_right_labels_are_not_suspected() -> None:
    clean = Made(wrong=0.0, spread=0.2).find()
    assert clean.counts() == {"judged": 360, "suspected": 0, "share": 0.0}
    assert clean.agreement() == {"train": 1.0, "val": 1.0, "test": 1.0}


def test_a_judge_that_knows_nothing_suspects_nothing(made: Made) -> None:
    """Probabilities hardly differ, as those of a network that was hardly trained: their order means nothing."""
    rng = np.random.default_rng(0)
    logits = {name: 1e-3 * rng.normal(size=(60, 3)) for name in made.held_out}
    found = label_errors.find([made.features], logits, made.splits, 1.0, seed=0)
    assert {one.split for one in found.suspected} == {"train"}


def test_counts_are_those_of_the_list(found: LabelErrors) -> None:
    counts = found.counts()
    assert counts["judged"] == len(found.ranked) == 360
    assert counts["suspected"] == sum(one.suspected for one in found.ranked) > 0
    assert counts["share"] == pytest.approx(counts["suspected"] / 360)


def test_the_same_data_give_the_same_list(made: Made, found: LabelErrors) -> None:
    assert made.find() == found


def test_cleanlab_says_nothing(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    made.find()
    shown, errors = capfd.readouterr()
    assert errors == ""
    assert set(filter(None, (line.partition(" ")[0] for line in shown.splitlines()))) <= {"label"}


def test_no_probe_has_seen_a_twin_of_what_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins with labels by chance: whoever has seen the one knows the other."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 80)).astype(np.float32).repeat(2, axis=0)
    labels, groups = rng.integers(0, 2, 40).repeat(2), np.arange(40).repeat(2)

    def accuracy(groups: np.ndarray) -> float:
        scores = probe.held_out_scores(features, labels, 2, probe.grouped_folds(labels, groups, 5, 0))
        return float((scores.argmax(axis=1) == labels).mean())

    assert accuracy(np.arange(80)) > 0.85
    assert accuracy(groups) < 0.7


def test_a_class_that_no_probe_can_learn_is_not_judged() -> None:
    """A single image of a class in train, and one of a class that train has none of, in test."""
    single = Made()
    train, test = single.splits["train"], single.splits["test"]
    classes = [*CLASSES, "one in train", "none in train"]
    train.labels[7], test.labels[9] = 3, 4
    single.splits = {name: replace(part, classes=classes) for name, part in single.splits.items()}
    single.held_out = {name: np.pad(one, ((0, 0), (0, 2)), constant_values=9) for name, one in single.held_out.items()}
    found = single.find()
    paths = {one.path for one in found.ranked}
    assert set(single.truth) - paths == {train.paths[7], test.paths[9]}
    assert "none in train" not in {one.suggested for one in found.ranked}


@pytest.mark.parametrize("labels", [np.zeros(240, np.int64), np.arange(240, dtype=np.int64)], ids=["one", "single"])
def test_train_that_cannot_be_folded_is_not_judged(labels: np.ndarray) -> None:
    """One class, or a class for each image."""
    made = Made()
    classes = [str(number) for number in range(240)]
    made.splits = {
        name: Arrays(part.images, labels if name == "train" else part.labels, part.paths, classes)
        for name, part in made.splits.items()
    }
    made.held_out = {name: np.pad(one, ((0, 0), (0, 237))) for name, one in made.held_out.items()}
    assert {one.split for one in made.find().ranked} == {"val", "test"}


def test_train_of_one_group_is_not_judged() -> None:
    made = Made()
    made.splits["train"].groups[:] = 5
    assert {one.split for one in made.find().ranked} == {"val", "test"}


def test_few_images_of_each_class_are_judged() -> None:
    made = Made(wrong=0.0)
    made.splits = {name: _first(part, 6 if name == "train" else 3) for name, part in made.splits.items()}
    made.held_out = {name: one[:3] for name, one in made.held_out.items()}
    found = label_errors.find([made.features[:6]], made.held_out, made.splits, 1.0, seed=0)
    assert len(found.ranked) == 12


def _first(part: Arrays, count: int) -> Arrays:
    return Arrays(part.images[:count], part.labels[:count], part.paths[:count], part.classes)


def test_forgotten_and_wrong_labels_of_sets_are_found() -> None:
    rng = np.random.default_rng(2)
    splits, logits, planted = {}, {}, {}
    for name, count in COUNTS.items():
        true = (rng.random((count, 4)) < 0.4).astype(np.int64)
        true[:, 3] = 0  # a label that no image has
        labels = true.copy()
        for row in range(0, count, 20):
            labels[row, row % 3] ^= 1
            planted[f"{name}/{row}"] = ";".join(np.array(["a", "b", "c"])[true[row, :3] == 1])
        paths = [f"{name}/{row}" for row in range(count)]
        splits[name] = Arrays(np.zeros((count, 1, 4, 4, 3), np.uint8), labels, paths, ["a", "b", "c", "d"])
        logits[name] = 12 * (true - 0.5) + 0.5 * rng.normal(size=true.shape)
    found = label_errors.find(
        [logits["train"].astype(np.float32)], {"val": logits["val"], "test": logits["test"]}, splits, 1.0, seed=0
    )
    assert {one.path: one.suggested for one in found.suspected} == planted
    assert len(found.ranked) == 360


def test_sets_without_any_label_are_judged() -> None:
    labels = np.zeros((6, 2), dtype=np.int64)
    splits: dict[SplitName, Arrays] = {
        name: Arrays(np.zeros((6, 1, 4, 4, 3), np.uint8), labels, [f"{name}{row}" for row in range(6)], ["a", "b"])
        for name in COUNTS
    }
    held_out: dict[SplitName, np.ndarray] = {name: np.full((6, 2), -3.0) for name in ("val", "test")}
    found = label_errors.find([np.eye(6, dtype=np.float32)], held_out, splits, 1.0, seed=0)
    assert found.suspected == []


def test_csv_gives_back_every_path(tmp_path: Path) -> None:
    odd = [
        "a,b.png",
        'quo"te.png',
        "new\nline.png",
        "carriage\rreturn.png",
        " space .png",
        "é🙂.png",
        "=1+1.png",
        "#.png",
    ]
    found = Made(names=odd).find()
    found.write(tmp_path / "label_errors.csv")
    with (tmp_path / "label_errors.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "split", "given", "suggested", "quality", "suspected"]
    assert [row[:4] for row in rows] == [list(one[:4]) for one in found.ranked]
    assert set(odd) <= {row[0] for row in rows}
    assert [row[5] for row in rows] == ["yes" if one.suspected else "no" for one in found.ranked]


def test_gallery_shows_the_image_its_label_and_the_suggestion(made: Made, found: LabelErrors) -> None:
    figure = gallery.draw_label_errors(found, made.splits, 4)
    tiles = [axes for axes in figure.axes if axes.images]
    assert len(tiles) == 4
    for number, (axes, one) in enumerate(zip(tiles, found.suspected, strict=False), 1):
        np.testing.assert_array_equal(axes.images[0].get_array(), made.splits[one.split].images[one.row, 0])
        assert (axes.get_title(), axes.get_xlabel()) == (f"{number}. {one.given}", one.suggested)


def test_gallery_says_why_it_is_empty(made: Made) -> None:
    fine = LabelErrors([Judgement("a.png", "val", "ant", "ant", 1.0, suspected=False, row=0)])
    for errors, told in ((None, "evaluate.label_errors is 0"), (fine, "no suspected label error among 1 images")):
        (text,) = gallery.draw_label_errors(errors, made.splits, 12).texts
        assert told in text.get_text()
