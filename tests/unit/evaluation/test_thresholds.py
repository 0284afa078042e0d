"""The threshold of each label is the one with the best F1 on validation."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from transferline.evaluation.thresholds import tune_thresholds


def tuned(probabilities: list[float], members: list[int]) -> float:
    (threshold,) = tune_thresholds(np.array(probabilities)[:, None], np.array(members, dtype=bool)[:, None])
    return float(threshold)


def test_no_other_threshold_has_a_better_f1() -> None:
    generator = np.random.default_rng(0)
    members = generator.random((60, 5)) < np.array([0.05, 0.2, 0.5, 0.8, 0.95])
    probabilities = np.clip(generator.normal(0.3 + 0.2 * members, 0.2), 0, 1)
    thresholds = tune_thresholds(probabilities, members)
    for index, threshold in enumerate(thresholds):
        found = f1_score(members[:, index], probabilities[:, index] >= threshold)
        every = [f1_score(members[:, index], probabilities[:, index] >= p) for p in probabilities[:, index]]
        assert found == pytest.approx(max(every))


def test_a_half_is_kept_where_nothing_is_better() -> None:
    assert tuned([0.9, 0.2], [1, 0]) == 0.5
    assert tuned([0.5, 0.2], [1, 0]) == 0.5  # 0.5 itself is called, being at least the threshold


def test_the_cut_lies_halfway_between_what_it_separates() -> None:
    assert tuned([0.9, 0.8, 0.6], [1, 1, 0]) == pytest.approx(0.7)
    assert tuned([0.3, 0.1, 0.05], [1, 0, 0]) == pytest.approx(0.2)


def test_of_equally_good_cuts_the_one_nearest_a_half_is_taken() -> None:
    # one call and one hit, or three calls and two hits: F1 is 2/3 and 4/5; or all four and two: 2/3
    assert tuned([0.9, 0.8, 0.4, 0.1], [1, 0, 1, 0]) == pytest.approx(0.25)
    # F1 is 2/3 where the first is called and where all four are: 0.5 is nearer than 0.025
    assert tuned([0.6, 0.2, 0.15, 0.05], [1, 0, 0, 1]) == 0.5


def test_equal_probabilities_are_not_separated() -> None:
    assert tuned([0.7, 0.7, 0.1], [1, 0, 0]) == 0.5


def test_a_label_without_images_keeps_a_half() -> None:
    assert tuned([0.9, 0.8], [0, 0]) == 0.5
