"""Which image in which order: a function of seed and epoch."""

import numpy as np
import pytest

from transferline.training.sampling import ViewBatches, by_class, stratified_rows

LABELS = np.array([0] * 30 + [1] * 8 + [2] * 3)


def picks(batches: ViewBatches, epoch: int) -> list[tuple[list[int], list[int]]]:
    batches.set_epoch(epoch)
    return [(rows.tolist(), views.tolist()) for rows, views in batches]


def balanced(labels: np.ndarray = LABELS, seed: int = 1, batch_size: int = 8) -> ViewBatches:
    return ViewBatches(len(labels), 3, batch_size, seed, by_class(labels))


def test_an_epoch_holds_every_image_once() -> None:
    rows = [row for batch, _ in picks(ViewBatches(20, 3, 8, seed=1), 0) for row in batch]
    assert sorted(rows) == list(range(20))


def test_order_and_views_depend_on_seed_and_epoch_alone() -> None:
    for make in (lambda seed: ViewBatches(50, 4, 8, seed=seed), lambda seed: balanced(seed=seed)):
        first = picks(make(1), 2)
        assert picks(make(1), 2) == first
        assert picks(make(1), 3) != first
        assert picks(make(2), 2) != first


def test_every_view_is_drawn() -> None:
    views = [view for _, batch in picks(ViewBatches(200, 3, 50, seed=1), 0) for view in batch]
    assert np.bincount(views).min() > 40


def test_a_last_batch_of_one_is_left_out_but_never_the_only_one() -> None:
    assert [len(rows) for rows, _ in picks(ViewBatches(17, 1, 8, seed=1), 0)] == [8, 8]
    assert [len(rows) for rows, _ in picks(ViewBatches(18, 1, 8, seed=1), 0)] == [8, 8, 2]
    assert [len(rows) for rows, _ in picks(ViewBatches(1, 1, 8, seed=1), 0)] == [1]


@pytest.mark.parametrize("images", [1, 17, 18, 24, 40, 41])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_knows_its_images(images: int, accumulate: int) -> None:
    batches = ViewBatches(images, 1, 8, seed=1)
    sizes = [len(rows) for rows, _ in batches]
    for number in range(len(sizes)):
        step = number // accumulate
        expected = sum(sizes[step * accumulate : (step + 1) * accumulate])
        assert batches.images_in_step(number, accumulate) == expected


def test_balanced_draws_every_class_equally_often_in_an_epoch_of_the_same_length() -> None:
    more = set()
    for epoch in range(8):
        drawn = np.concatenate([rows for rows, _ in picks(balanced(batch_size=41), epoch)]) % len(LABELS)
        counts = np.bincount(LABELS[drawn]).tolist()
        assert sorted(counts) == [13, 14, 14]
        more.add(counts.index(13))
    assert more == {0, 1, 2}


def test_balanced_draws_the_images_of_a_class_as_often_as_each_other() -> None:
    drawn = np.concatenate([rows for rows, _ in picks(balanced(batch_size=41), 0)]) % len(LABELS)
    for label in range(3):
        counts = np.bincount(drawn, minlength=len(LABELS))[label == LABELS]
        assert counts.max() - counts.min() <= 1


def test_an_image_that_comes_again_is_another_draw() -> None:
    draws = np.concatenate([rows for rows, _ in picks(balanced(batch_size=41), 0)])
    assert len(set(draws.tolist())) == 41
    times = draws // len(LABELS)
    rare = draws % len(LABELS) >= 38
    assert sorted(set(times[rare].tolist())) == [0, 1, 2, 3, 4]
    assert set(times[~rare].tolist()) == {0, 1}


def test_of_several_labels_each_class_is_a_group_and_so_is_having_none() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    assert [rows.tolist() for rows in by_class(labels)] == [[0, 1], [1, 3], [2]]


def test_a_fraction_is_a_share_of_every_class() -> None:
    labels = np.array([0] * 80 + [1] * 20 + [2])
    rows = stratified_rows(labels, 0.25, seed=3)
    assert np.bincount(labels[rows]).tolist() == [20, 5, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_a_fraction_of_images_with_several_labels_has_an_image_of_each_class() -> None:
    labels = np.zeros((100, 4), np.int64)
    labels[:60, 0] = labels[30:90, 1] = labels[7, 2] = labels[93, 3] = 1
    rows = stratified_rows(labels, 0.2, seed=3)
    assert 20 <= len(rows) <= 23
    assert labels[rows].any(axis=0).all()
    assert rows.tolist() == sorted(set(rows.tolist()))
