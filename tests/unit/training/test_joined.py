"""Train and validation together: every image of both once an epoch, and nothing said of validation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ListRecorder
from tests.unit.model import menu
from transferline.artifacts import Arrays
from transferline.fitting import Finetune
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, Suffix, rebuild
from transferline.sections import Activations
from transferline.training.data import Behind, Splits, ViewData, embed
from transferline.training.fit import fit

TRAIN, VAL = 48, 15


@pytest.fixture(scope="module")
def joined(splits: Splits) -> Splits:
    val = replace(splits.val, paths=[f"val/{path}" for path in splits.val.paths])
    return splits._replace(val=val, joined=True)


@pytest.fixture(scope="module")
def net() -> Classifier:
    plain = menu.make("small_cnn", 32)
    return rebuild(plain, replace(plain.card, taps=[1, 3]), 0).eval()


def epoch(
    splits: Splits, behind: Behind | None = None, seed: int = 2, **options: bool
) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]]:
    return list(ViewData(splits, 16, seed, behind, **options).train_dataloader())


def test_every_image_of_both_splits_comes_once_an_epoch_those_of_validation_as_they_are(joined: Splits) -> None:
    seen, augmented = [], 0
    for (images,), labels, draws in epoch(joined):
        for image, label, row in zip(images.numpy(), labels.tolist(), draws.tolist(), strict=True):
            seen.append(row)
            if row >= TRAIN:
                np.testing.assert_array_equal(image, joined.val.images[row - TRAIN, 0])
                assert label == joined.val.labels[row - TRAIN]
            else:
                same = [np.array_equal(image, view) for view in joined.train.images[row]]
                assert sum(same) == 1
                augmented += same.index(True) > 0
                assert label == joined.train.labels[row]
    assert sorted(seen) == list(range(TRAIN + VAL))
    assert seen[:TRAIN] != list(range(TRAIN)), "the splits are mixed"
    assert augmented > 0


def test_labels_and_paths_are_of_both_in_the_order_of_the_rows(joined: Splits, splits: Splits) -> None:
    np.testing.assert_array_equal(joined.labels, [*splits.train.labels, *splits.val.labels])
    assert joined.paths == [*splits.train.paths, *(f"val/{path}" for path in splits.val.paths)]
    np.testing.assert_array_equal(splits.labels, splits.train.labels)
    assert splits.paths == splits.train.paths


@pytest.mark.parametrize("depth", [2, 4])
def test_behind_frozen_blocks_the_same_images_make_the_same_batches(
    net: Classifier, joined: Splits, tmp_path: Path, depth: int
) -> None:
    cache = Cache(Activations(engine="torch", dtype="float32"), tmp_path)
    behind = embed(cache, net, joined, {depth})[depth]
    net.freeze(depth)
    suffix = Suffix(net).eval()
    for kept, given in zip(epoch(joined, behind), epoch(joined), strict=True):
        assert torch.equal(kept[1], given[1])
        assert torch.equal(kept[2], given[2])
        assert len(kept[0]) == 2, "the head sees frozen blocks"
        with torch.inference_mode():
            expected = net(given[0][0].permute(0, 3, 1, 2).float())
            torch.testing.assert_close(suffix(*kept[0]), expected, rtol=1e-4, atol=1e-3)
            assert float(expected.std(0).min()) > 0.01, "images are told apart"


def test_classes_are_balanced_over_both(colour_arrays: Callable[..., Arrays]) -> None:
    train, val = colour_arrays(24, views=2), colour_arrays(9, seed=1)
    val.labels[:] = 2
    groups = ViewData(Splits(train, val, joined=True), 8, 0, balanced=True).groups
    assert groups is not None
    assert [len(rows) for rows in groups] == [8, 8, 17]
    assert set(range(24, 33)) <= set(groups[2].tolist())


@pytest.mark.parametrize("kept", [False, True], ids=["images", "activations"])
def test_training_on_both_says_nothing_of_validation(
    net: Classifier, joined: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    trained = rebuild(net, net.card, 0)
    trained.freeze(3)
    behind = embed(Cache(Activations(engine="torch"), tmp_path), trained, joined, {3})[3] if kept else None
    recorder = ListRecorder()
    capsys.readouterr()
    history = fit(
        trained,
        joined,
        Finetune(epochs=3, monitor="loss", early_stopping=1, early_stopping_monitor="accuracy"),
        lr=1e-3,
        batch_size=16,
        seed=1,
        recorder=recorder,
        label="both",
        behind=behind,
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("both: epoch")]
    assert [step for step, _ in recorder.metrics] == [0, 1, 2], "nothing stops it early"
    assert {name for _, row in recorder.metrics for name in row} == {"train_loss", "train_accuracy", "lr"}
    assert [row["train_loss"] for row in history.epochs] == [row["train_loss"] for _, row in recorder.metrics]
    assert history.best["train_loss"] == min(row["train_loss"] for row in history.epochs)
    assert len(lines) == 3
    assert not any("val" in line or "macro-F1" in line for line in lines)
