"""Which view of which image, in which order."""

import numpy as np

from transferline.training.data import Splits, ViewBatches, ViewData, stratified_rows


def picks(batches: ViewBatches, epoch: int) -> list[tuple[list[int], list[int]]]:
    batches.set_epoch(epoch)
    return [(rows.tolist(), views.tolist()) for rows, views in batches]


def test_an_epoch_holds_every_image_once() -> None:
    rows = [row for batch, _ in picks(ViewBatches(20, 3, 8, seed=1), 0) for row in batch]
    assert sorted(rows) == list(range(20))


def test_order_and_views_depend_on_seed_and_epoch_alone() -> None:
    first = picks(ViewBatches(50, 4, 8, seed=1), 2)
    assert picks(ViewBatches(50, 4, 8, seed=1), 2) == first
    assert picks(ViewBatches(50, 4, 8, seed=1), 3) != first
    assert picks(ViewBatches(50, 4, 8, seed=2), 2) != first


def test_every_view_is_drawn() -> None:
    views = [view for _, batch in picks(ViewBatches(200, 3, 50, seed=1), 0) for view in batch]
    assert np.bincount(views).min() > 40


def test_a_last_batch_of_one_is_left_out_but_never_the_only_one() -> None:
    assert [len(rows) for rows, _ in picks(ViewBatches(17, 1, 8, seed=1), 0)] == [8, 8]
    assert [len(rows) for rows, _ in picks(ViewBatches(18, 1, 8, seed=1), 0)] == [8, 8, 2]
    assert [len(rows) for rows, _ in picks(ViewBatches(1, 1, 8, seed=1), 0)] == [1]


def test_validation_sees_the_clean_view_of_every_image_in_order(splits: Splits) -> None:
    batches = list(ViewData(splits, 4, seed=0).val_dataloader())
    seen = np.concatenate([images.numpy() for images, *_ in batches])
    np.testing.assert_array_equal(seen, splits.val.images[:, 0])


def test_a_fraction_is_a_share_of_every_class() -> None:
    labels = np.array([0] * 80 + [1] * 20 + [2])
    rows = stratified_rows(labels, 0.25, seed=3)
    assert np.bincount(labels[rows]).tolist() == [20, 5, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))
