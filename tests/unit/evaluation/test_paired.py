"""A paired test of two classifiers on the same images: known p-values, and the bootstrap of the images themselves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from transferline.evaluation import paired


def changed(outcome, rows: slice):
    """The same, but that these images are given other classes."""
    probabilities = outcome.probabilities.copy()
    probabilities[rows] = np.roll(probabilities[rows], 1, axis=1)
    return replace(outcome, probabilities=probabilities)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (3, 10), (5, 5), (0, 6), (260, 200)])
def test_mcnemar_is_the_binomial_test_of_the_images_that_one_alone_is_right_about(one: int, other: int) -> None:
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert paired.mcnemar(one, other) == pytest.approx(expected)


def test_a_classifier_is_not_worse_than_itself(outcome) -> None:
    found = paired.compare(outcome, outcome, 200, seed=0)
    assert (found.accuracy_difference, found.macro_f1_difference, found.loss) == (0, 0, 0)
    assert found.accuracy_interval == found.macro_f1_interval == [0, 0]
    assert (found.agreement, found.p_value, found.max_difference, found.worse) == (1, 1, 0, False)


@pytest.mark.parametrize("kind", ["outcome", "labelled"])
def test_differences_intervals_and_agreement_are_those_of_the_images(kind: str, request) -> None:
    before = request.getfixturevalue(kind)
    after = changed(before, slice(0, 30))
    found = paired.compare(before, after, 4000, seed=1)
    right = [(one.members == one.calls).all(axis=1) for one in (before, after)]
    gain = right[1].astype(float) - right[0]
    rows = np.random.default_rng(2).integers(0, len(gain), (4000, len(gain)))
    np.testing.assert_allclose(found.accuracy_interval, np.percentile(gain[rows].mean(axis=1), [2.5, 97.5]), atol=0.015)
    assert found.accuracy == pytest.approx(right[1].mean())
    assert found.accuracy_difference == pytest.approx(gain.mean())
    assert (found.reference_alone, found.candidate_alone) == ((gain < 0).sum(), (gain > 0).sum())
    assert found.agreement == pytest.approx((before.calls == after.calls).all(axis=1).mean())
    assert found.worse
    assert found.p_value < 0.001
    low, high = found.macro_f1_interval
    assert low < found.macro_f1_difference < high < 0


def test_the_interval_is_of_the_difference_and_so_far_narrower_than_that_of_the_figure(outcome_of) -> None:
    before = outcome_of(images=400, margin=0.5)
    found = paired.compare(before, changed(before, slice(0, 4)), 500, seed=0)
    low, high = found.accuracy_interval
    assert high - low < 0.03


def test_what_is_gained_is_no_loss(outcome) -> None:
    gained = paired.compare(changed(outcome, slice(0, 30)), outcome, 200, seed=0)
    assert gained.accuracy_difference > 0
    assert (gained.loss, gained.worse) == (0, False)


def test_intervals_follow_the_seed(outcome) -> None:
    other = changed(outcome, slice(0, 30))
    assert paired.compare(outcome, other, 200, seed=3) == paired.compare(outcome, other, 200, seed=3)
    assert paired.compare(outcome, other, 200, seed=3) != paired.compare(outcome, other, 200, seed=4)


def test_other_images_are_not_compared(outcome, outcome_of) -> None:
    with pytest.raises(AssertionError, match="same images"):
        paired.compare(outcome, outcome_of(images=60), 200, seed=0)
