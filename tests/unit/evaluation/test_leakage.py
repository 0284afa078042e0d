import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from transferline.errors import UserError
from transferline.evaluation import leakage, metrics
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel

CLASSES = ["a", "b", "c"]
PATHS = [f"{row}.png" for row in range(60)]


def multiclass() -> Multiclass:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1, 1, 1], 60)
    labels = np.arange(60) % 3
    scores[::2] = np.eye(3)[labels[::2]]  # every other image is right for sure
    return Multiclass(labels, scores, scores, 1.0, CLASSES)


def multilabel() -> Multilabel:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 3)), rng.integers(0, 2, (60, 3))
    return Multilabel(labels, scores, scores, 1.0, CLASSES, np.full(3, 0.5))


@pytest.mark.parametrize("make", [multiclass, multilabel])
def test_figures_with_and_without_are_those_of_scikit_learn(make):
    outcome, seen = make(), frozenset(PATHS[::2])
    found = leakage.compare(outcome, PATHS, seen)["leakage"]
    scores = metrics.evaluate(outcome, 15, 100, 0)
    assert found["images"] == 30
    assert (found["accuracy_with"], found["macro_f1_with"]) == (scores["accuracy"], scores["macro_f1"])
    rest = slice(1, None, 2)
    expected = f1_score(outcome.labels[rest], outcome.predicted[rest], average="macro")
    assert found["macro_f1_without"] == pytest.approx(expected)
    assert found["accuracy_without"] == pytest.approx((outcome.members == outcome.calls).all(axis=1)[rest].mean())
    assert found["accuracy_without"] != found["accuracy_with"]


def test_without_leakage_there_is_nothing_to_say():
    assert leakage.compare(multiclass(), PATHS, frozenset()) == {}
    assert leakage.compare(multiclass(), PATHS, frozenset(["elsewhere.png"])) == {}


def test_a_test_split_that_leaks_altogether_has_no_figures_without():
    found = leakage.compare(multiclass(), PATHS, frozenset(PATHS))["leakage"]
    assert found["images"] == 60
    assert found["accuracy_without"] is None
    assert found["macro_f1_without"] is None
    scores = metrics.evaluate(multiclass(), 15, 100, 0) | {"leakage": found}
    assert {name for name in metrics.scalars(scores) if "leakage" in name} == {
        "leakage_images",
        "leakage_accuracy_with",
        "leakage_macro_f1_with",
    }


def test_prepares_report_is_read_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "leakage.json"
    path.write_text(json.dumps({"pairs": [{"test": "x.png", "train": "y.png", "distance": 0}]}))
    assert leakage.read(path) == {"x.png"}
    for broken in ("{}", "[]", '{"pairs": [1]}', "{"):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"leakage\.json"):
            leakage.read(path)
    with pytest.raises(UserError, match="is missing"):
        leakage.read(tmp_path / "none.json")
