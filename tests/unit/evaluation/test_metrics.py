"""The numbers agree with scikit-learn, the intervals with resampling, and nothing is ever NaN."""

import json
import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from transferline.evaluation import metrics
from transferline.evaluation.outcome import Outcome

KEYS = {
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall",
    "weighted_precision", "weighted_recall", "log_loss", "roc_auc", "pr_auc", "ece", "ece_calibrated",
    "temperature", "images", "intervals", "per_class",
}  # fmt: skip


def certain(labels: list[int], predicted: list[int], classes: int) -> Outcome:
    """An outcome that gives each prediction 90 %."""
    probabilities = np.full((len(labels), classes), 0.1 / (classes - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    return Outcome(np.array(labels), probabilities, probabilities, 1.0, [f"c{i}" for i in range(classes)])


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


def test_headlines_of_resampled_matrices_equal_scikit_learn_on_the_images(outcome_of) -> None:
    outcome, generator = outcome_of(images=12, classes=("a", "b", "c", "d"), margin=0.5), np.random.default_rng(0)
    for _ in range(20):
        rows = generator.integers(0, 12, 12)  # so few that classes go missing
        labels, predicted = outcome.labels[rows], outcome.predicted[rows]
        cells = np.ones((1, 12))
        got = metrics.headlines(cells, labels, predicted)
        present = np.unique(labels)
        assert got["accuracy"][0] == pytest.approx(accuracy_score(labels, predicted))
        expected = recall_score(labels, predicted, labels=present, average="macro")
        assert got["balanced_accuracy"][0] == pytest.approx(expected)
        assert got["macro_f1"][0] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


def test_intervals_agree_with_resampling_the_images_themselves(outcome) -> None:
    generator = np.random.default_rng(1)
    right = outcome.predicted == outcome.labels
    drawn = right[generator.integers(0, len(right), (4000, len(right)))].mean(axis=1)
    interval = metrics.bootstrap_intervals(metrics.confusion(outcome), 4000, seed=2)["accuracy"]
    np.testing.assert_allclose(interval, np.percentile(drawn, [2.5, 97.5]), atol=0.01)


def test_intervals_hold_their_number_and_follow_the_seed(outcome) -> None:
    scores, again = evaluated(outcome), evaluated(outcome)
    assert scores == again
    for name, (low, high) in scores["intervals"].items():
        assert low < scores[name] < high
    other = metrics.bootstrap_intervals(metrics.confusion(outcome), 200, seed=43)
    assert other != scores["intervals"]


def test_chunks_draw_what_one_draw_would(outcome, monkeypatch) -> None:
    matrix = metrics.confusion(outcome)
    whole = metrics.bootstrap_intervals(matrix, 500, seed=3)
    monkeypatch.setattr(metrics, "CHUNK", 77)
    assert metrics.bootstrap_intervals(matrix, 500, seed=3) == whole


def test_two_thousand_resamples_of_ten_thousand_images_take_seconds(outcome_of) -> None:
    matrix = metrics.confusion(outcome_of(images=10_000, classes=tuple(f"c{i}" for i in range(50)), margin=1.0))
    start = time.process_time()
    metrics.bootstrap_intervals(matrix, 2000, seed=4)
    assert time.process_time() - start < 5


def test_curves_start_at_full_recall_and_carry_their_area(outcome) -> None:
    curves = metrics.precision_recall_curves(outcome)
    assert [curve.name for curve in curves] == outcome.classes
    assert all(curve.recall[0] == 1 and curve.recall[-1] == 0 for curve in curves)
    assert evaluated(outcome)["pr_auc"] == pytest.approx(np.mean([curve.average_precision for curve in curves]))


def test_scalars_have_names_that_a_tracker_takes(outcome_of) -> None:
    flat = metrics.scalars(evaluated(outcome_of(classes=("a@b", "c[1]", "größe"))))
    assert {"f1_a_b", "f1_c_1_", "f1_größe", "macro_f1_low", "macro_f1_high", "ece_calibrated"} <= set(flat)
    assert all(isinstance(value, int | float) for value in flat.values())
