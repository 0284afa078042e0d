"""The numbers agree with scikit-learn, and nothing is ever NaN."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, roc_auc_score

from transferline.evaluation import metrics
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Outcome

KEYS = {
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall",
    "weighted_precision", "weighted_recall", "log_loss", "roc_auc", "pr_auc", "ece", "ece_calibrated",
    "temperature", "images", "intervals", "per_class",
}  # fmt: skip
ONLY_OF_SETS = {"micro_precision", "micro_recall", "micro_f1", "hamming_loss", "thresholds"}


def certain(labels: list[int], predicted: list[int], classes: int) -> Outcome:
    """An outcome that gives each prediction 90 %."""
    probabilities = np.full((len(labels), classes), 0.1 / (classes - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    return Multiclass(np.array(labels), probabilities, probabilities, 1.0, [f"c{i}" for i in range(classes)])


def evaluated(outcome: Outcome, resamples: int = 200) -> dict:
    scores = metrics.evaluate(outcome, bins=15, resamples=resamples, seed=42)
    json.dumps(scores, allow_nan=False)
    return scores


def test_keys_are_the_contract_of_the_gate_and_the_report(outcome) -> None:
    assert set(evaluated(outcome)) == KEYS


def test_numbers_by_hand() -> None:
    scores = evaluated(certain([0, 0, 0, 1], [0, 0, 1, 1], 2))
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["weighted_f1"] == pytest.approx(0.75 * 0.8 + 0.25 * 2 / 3)
    assert scores["log_loss"] == pytest.approx(-(3 * np.log(0.9) + np.log(0.1)) / 4)
    assert scores["per_class"]["c1"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}


def test_two_classes_give_the_ordinary_auc(outcome_of) -> None:
    outcome = outcome_of(classes=("good", "bad"))
    assert evaluated(outcome)["roc_auc"] == pytest.approx(roc_auc_score(outcome.labels, outcome.probabilities[:, 1]))


def test_a_class_missing_from_the_test_split_counts_in_no_average() -> None:
    scores = evaluated(certain([0, 0, 1, 1], [0, 0, 1, 0], 3))
    assert scores["per_class"]["c2"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["roc_auc"] == pytest.approx(0.75)


def test_a_class_predicted_but_missing_lowers_macro_f1_not_balanced_accuracy() -> None:
    scores = evaluated(certain([0, 0, 1, 1], [0, 0, 1, 2], 3))
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["balanced_accuracy"] == pytest.approx(0.75)


def test_areas_are_null_where_the_test_split_holds_one_class() -> None:
    scores = evaluated(certain([1, 1, 1], [1, 1, 0], 2))
    assert scores["roc_auc"] is None
    assert scores["pr_auc"] is None
    assert "roc_auc" not in metrics.scalars(scores)


def test_curves_start_at_full_recall_and_carry_their_area(outcome) -> None:
    curves = metrics.precision_recall_curves(outcome)
    assert [curve.name for curve in curves] == outcome.classes
    assert all(curve.recall[0] == 1 and curve.recall[-1] == 0 for curve in curves)
    assert evaluated(outcome)["pr_auc"] == pytest.approx(np.mean([curve.average_precision for curve in curves]))


def test_label_sets_have_the_same_keys_and_some_of_their_own(labelled) -> None:
    scores = evaluated(labelled)
    assert set(scores) == (KEYS - {"balanced_accuracy"}) | ONLY_OF_SETS
    assert set(scores["intervals"]) == {"accuracy", "macro_f1"}
    assert (
        scores["thresholds"]
        == {name: row["threshold"] for name, row in scores["per_class"].items()}
        == dict(zip(labelled.classes, labelled.thresholds, strict=True))
    )


def test_numbers_of_label_sets_by_hand() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    probabilities = np.array([[0.9, 0.2], [0.6, 0.4], [0.5, 0.1], [0.2, 0.25]])
    scores = evaluated(Multilabel(labels, probabilities, probabilities, 1.0, ["a", "b"], np.array([0.55, 0.3])))
    assert scores["accuracy"] == 0.75
    assert scores["hamming_loss"] == 0.125
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert scores["per_class"]["b"] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2, "threshold": 0.3,
        "average_precision": 1.0,
    }  # fmt: skip
    assert scores["log_loss"] == pytest.approx(log_loss(labels.ravel(), probabilities.ravel()))


def test_areas_of_label_sets_equal_scikit_learn(labelled) -> None:
    scores = evaluated(labelled)
    assert scores["pr_auc"] == pytest.approx(average_precision_score(labelled.labels, labelled.probabilities))
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(labelled.labels, labelled.probabilities))
    assert scores["accuracy"] == pytest.approx(accuracy_score(labelled.labels, labelled.predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labelled.labels, labelled.predicted, average="macro"))


def test_a_label_that_all_test_images_have_has_no_area(labelled) -> None:
    labels = labelled.labels.copy()
    labels[:, 0] = 1
    scores = evaluated(replace(labelled, labels=labels))
    assert scores["per_class"]["cat"]["average_precision"] is None
    assert scores["pr_auc"] is not None


def test_curves_of_label_sets_are_marked_where_they_are_cut(labelled) -> None:
    per_class = evaluated(labelled)["per_class"]
    for curve in metrics.precision_recall_curves(labelled):
        row = per_class[curve.name]
        assert curve.mark == (row["threshold"], pytest.approx(row["recall"]), pytest.approx(row["precision"]))


def test_scalars_have_names_that_a_tracker_takes(outcome_of) -> None:
    flat = metrics.scalars(evaluated(outcome_of(classes=("a@b", "c[1]", "größe"))))
    assert {"f1_a_b", "f1_c_1_", "f1_größe", "macro_f1_low", "macro_f1_high", "ece_calibrated"} <= set(flat)
    assert all(isinstance(value, int | float) for value in flat.values())


def test_scalars_hold_the_probe_and_the_gain(outcome) -> None:
    scores = evaluated(outcome)
    further = {
        "probe": {"macro_f1": 0.6, "intervals": {"macro_f1": [0.5, 0.7]}},
        "gain": {"macro_f1": {"difference": 0.1, "low": -0.05, "high": 0.2}},
    }
    added = metrics.scalars(scores | further).items() - metrics.scalars(scores).items()
    assert dict(added) == {
        "probe_macro_f1": 0.6, "probe_macro_f1_low": 0.5, "probe_macro_f1_high": 0.7,
        "gain_macro_f1": 0.1, "gain_macro_f1_low": -0.05, "gain_macro_f1_high": 0.2,
    }  # fmt: skip
