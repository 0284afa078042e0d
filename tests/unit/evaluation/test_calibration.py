"""Temperature scaling finds what was hidden, and the calibration error is what its definition says."""

import numpy as np
import pytest

from transferline.errors import UserError
from transferline.evaluation.calibration import calibrate, fit_temperature, reliability, sigmoid, softmax
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.thresholds import tune_thresholds


def drawn(images: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth, times `temperature`; labels drawn from that truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(images, 3))
    draws = generator.random(images)[:, None] > softmax(logits).cumsum(axis=1)
    return (logits * temperature).astype(np.float32), draws.sum(axis=1)


def log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(np.log(softmax(logits, temperature)[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("hidden", [0.4, 1.0, 3.0])
def test_the_temperature_hidden_in_the_logits_is_found(hidden: float) -> None:
    logits, labels = drawn(20_000, hidden)
    assert fit_temperature(logits, labels) == pytest.approx(hidden, rel=0.05)


def test_no_other_temperature_is_likelier() -> None:
    logits, labels = drawn(200, 2.0)
    best = fit_temperature(logits, labels)
    for other in (best * 0.99, best * 1.01):
        assert log_likelihood(logits, labels, best) > log_likelihood(logits, labels, other)


def test_where_every_image_is_right_the_temperature_stays_one() -> None:
    logits = np.eye(3, dtype=np.float32) * 4
    assert fit_temperature(logits, np.arange(3)) == 1.0


def test_scaling_changes_no_prediction_and_lowers_the_error() -> None:
    val_logits, val_labels = drawn(2000, 4.0, seed=1)
    test_logits, test_labels = drawn(2000, 4.0, seed=2)
    outcome = calibrate(val_logits, val_labels, test_logits, test_labels, ["a", "b", "c"])
    np.testing.assert_array_equal(outcome.predicted, outcome.uncalibrated.argmax(axis=1))
    before, after = (
        reliability(*outcome.decisions(stated), 15).error for stated in (outcome.uncalibrated, outcome.probabilities)
    )
    assert after < 0.03 < before


def test_softmax_of_huge_logits_is_finite() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_calibration_error_by_hand() -> None:
    confidences, right = np.array([0.9, 0.8, 0.7, 0.55]), np.array([True, False, True, True])
    # two bins over 0..1: all four confidences lie in the upper one; mean 0.7375, three of four right
    assert reliability(confidences, right, 2).error == pytest.approx(0.75 - 0.7375)
    # ten bins: each confidence in a bin of its own
    expected = (0.1 + 0.8 + 0.3 + 0.45) / 4
    assert reliability(confidences, right, 10).error == pytest.approx(expected)


def test_a_confidence_on_an_edge_is_in_the_bin_below_and_one_is_in_the_last() -> None:
    bins = reliability(np.array([0.5, 1.0]), np.array([True, True]), 4)
    assert bins.counts.tolist() == [0, 1, 0, 1]


def drawn_sets(images: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose sigmoid is the truth, times `temperature`; labels drawn from that truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(images, 3))
    labels = (generator.random(logits.shape) < sigmoid(logits)).astype(np.int64)
    return (logits * temperature).astype(np.float32), labels


@pytest.mark.parametrize("hidden", [0.4, 1.0, 3.0])
def test_one_temperature_is_found_for_all_labels_of_all_images(hidden: float) -> None:
    logits, labels = drawn_sets(8000, hidden)
    assert fit_temperature(logits, labels) == pytest.approx(hidden, rel=0.05)


def test_where_every_label_is_right_the_temperature_stays_one() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0]])
    assert fit_temperature((6.0 * labels - 3).astype(np.float32), labels) == 1.0


def test_label_sets_get_probabilities_of_their_own_and_thresholds_from_validation() -> None:
    val_logits, val_labels = drawn_sets(2000, 4.0, seed=1)
    test_logits, test_labels = drawn_sets(2000, 4.0, seed=2)
    outcome = calibrate(val_logits, val_labels, test_logits, test_labels, ["a", "b", "c"])
    assert isinstance(outcome, Multilabel)
    assert outcome.probabilities.sum(axis=1).max() > 1.5
    expected = tune_thresholds(sigmoid(val_logits, outcome.temperature), val_labels == 1)
    np.testing.assert_array_equal(outcome.thresholds, expected)
    before, after = (
        reliability(*outcome.decisions(stated), 15).error for stated in (outcome.uncalibrated, outcome.probabilities)
    )
    assert after < 0.03 < before


def test_sigmoid_of_huge_logits_is_finite() -> None:
    np.testing.assert_allclose(sigmoid(np.array([[1e4, 0.0, -1e4]])), [[1, 0.5, 0]])


def test_a_diverged_network_is_named() -> None:
    logits = np.array([[np.nan, 0.0]], dtype=np.float32)
    with pytest.raises(UserError, match="diverged"):
        calibrate(np.zeros((1, 2)), np.zeros(1, np.int64), logits, np.zeros(1, np.int64), ["a", "b"])
