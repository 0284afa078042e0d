"""The intervals agree with resampling the images themselves, of both kinds of data."""

import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from transferline.evaluation import bootstrap
from transferline.evaluation.outcome import Cells


def rows_of(outcome, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those images as cells, one an image."""
    return np.ones((1, len(rows))), outcome.members[rows], outcome.calls[rows]


def test_headlines_of_resampled_images_equal_scikit_learn(outcome_of) -> None:
    outcome, generator = outcome_of(images=12, classes=("a", "b", "c", "d"), margin=0.5), np.random.default_rng(0)
    for _ in range(20):
        rows = generator.integers(0, 12, 12)  # so few that classes go missing
        labels, predicted = outcome.labels[rows], outcome.predicted[rows]
        got = bootstrap.headlines(*rows_of(outcome, rows))
        present = np.unique(labels)
        assert got["accuracy"][0] == pytest.approx(accuracy_score(labels, predicted))
        expected = recall_score(labels, predicted, labels=present, average="macro")
        assert got["balanced_accuracy"][0] == pytest.approx(expected)
        assert got["macro_f1"][0] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


def test_headlines_of_label_sets_equal_scikit_learn(labelled) -> None:
    rows = np.random.default_rng(0).integers(0, 120, 120)
    got = bootstrap.headlines(*rows_of(labelled, rows))
    labels, predicted = labelled.labels[rows], labelled.predicted[rows]
    assert got["accuracy"][0] == pytest.approx(accuracy_score(labels, predicted))
    assert got["macro_f1"][0] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_images_without_labels_and_without_calls_score_nothing() -> None:
    nothing = np.zeros((1, 2), dtype=bool)
    assert bootstrap.headlines(np.ones((1, 1)), nothing, nothing)["macro_f1"].tolist() == [0.0]


@pytest.mark.parametrize("kind", ["outcome", "labelled"])
def test_intervals_agree_with_resampling_the_images_themselves(kind: str, request: pytest.FixtureRequest) -> None:
    outcome, generator = request.getfixturevalue(kind), np.random.default_rng(1)
    right = (outcome.members == outcome.calls).all(axis=1)
    drawn = right[generator.integers(0, len(right), (4000, len(right)))].mean(axis=1)
    interval = bootstrap.bootstrap_intervals(outcome.cells(), 4000, seed=2)["accuracy"]
    np.testing.assert_allclose(interval, np.percentile(drawn, [2.5, 97.5]), atol=0.015)


@pytest.mark.parametrize("kind", ["outcome", "labelled"])
def test_intervals_hold_their_number_and_follow_the_seed(kind: str, request: pytest.FixtureRequest) -> None:
    cells = request.getfixturevalue(kind).cells()
    intervals = bootstrap.bootstrap_intervals(cells, 200, seed=42)
    assert intervals == bootstrap.bootstrap_intervals(cells, 200, seed=42)
    assert intervals != bootstrap.bootstrap_intervals(cells, 200, seed=43)
    measured = bootstrap.headlines(cells.counts[None].astype(float), cells.actual, cells.predicted)
    for name, (low, high) in intervals.items():
        assert low < measured[name][0] < high


def test_cells_count_every_image_once(outcome, labelled) -> None:
    for each in (outcome, labelled):
        cells = each.cells()
        assert cells.counts.sum() == len(each.labels)
        assert len(np.unique(np.hstack([cells.actual, cells.predicted]), axis=0)) == len(cells.counts)


def test_chunks_draw_what_one_draw_would(outcome, monkeypatch) -> None:
    whole = bootstrap.bootstrap_intervals(outcome.cells(), 500, seed=3)
    monkeypatch.setattr(bootstrap, "CHUNK", 77)
    assert bootstrap.bootstrap_intervals(outcome.cells(), 500, seed=3) == whole
    monkeypatch.setattr(bootstrap, "COUNTS", 1)  # so many cells that a chunk is one resample
    assert bootstrap.bootstrap_intervals(outcome.cells(), 500, seed=3) == whole


def test_two_thousand_resamples_of_ten_thousand_images_take_seconds(outcome_of) -> None:
    cells = outcome_of(images=10_000, classes=tuple(f"c{i}" for i in range(50)), margin=1.0).cells()
    assert isinstance(cells, Cells)
    start = time.process_time()
    bootstrap.bootstrap_intervals(cells, 2000, seed=4)
    assert time.process_time() - start < 5
