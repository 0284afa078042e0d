"""Which view of which image, in which order."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import ListRecorder
from transferline.artifacts import ModelCard
from transferline.data.transforms import drawn
from transferline.fitting import Fit
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.policy import GaussianNoise, HorizontalFlip
from transferline.sections import Activations
from transferline.training.data import Splits, ViewData, behind, embed
from transferline.training.fit import fit

POLICY = (HorizontalFlip(name="horizontal_flip"), GaussianNoise(name="gaussian_noise", sigma=(5.0, 10.0)))


def test_validation_sees_the_clean_view_of_every_image_in_order(splits: Splits) -> None:
    batches = list(ViewData(splits, 4, seed=0).val_dataloader())
    seen = np.concatenate([images.numpy() for (images,), *_ in batches])
    np.testing.assert_array_equal(seen, splits.val.images[:, 0])


@dataclass
class Seen(pl.Callback):
    """Row -> image, of each epoch's training and validation."""

    train: list[dict[int, np.ndarray]] = field(default_factory=list)
    val: list[dict[int, np.ndarray]] = field(default_factory=list)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train.append({})
        self.val.append({})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.train[-1] |= dict(zip(batch[2].tolist(), batch[0][0].numpy().copy(), strict=True))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.val[-1] |= dict(zip(batch[2].tolist(), batch[0][0].numpy().copy(), strict=True))


@pytest.fixture
def online(splits: Splits) -> Splits:
    """One view, and transforms that draw others of it."""
    train = replace(splits.train, images=splits.train.images[:, :1], online=POLICY)
    return splits._replace(train=train)


@pytest.fixture(scope="module")
def net() -> classifier.Classifier:
    card = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
    built = classifier.build(card, "none", seed=0)
    built.freeze(13)
    return built


def watch(net: classifier.Classifier, splits: Splits, seed: int = 1, epochs: int = 2, clean: int = 0) -> Seen:
    seen, settings = Seen(), {"lr": 1e-3, "batch_size": 16, "seed": seed, "label": "test"}
    fit(net, splits, Fit(epochs=epochs, clean_epochs=clean), recorder=ListRecorder(), callbacks=[seen], **settings)
    return seen


def same(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> list[bool]:
    """Row by row."""
    assert set(one) == set(other)
    return [np.array_equal(one[row], other[row]) for row in sorted(one)]


def test_views_that_are_drawn_differ_from_epoch_to_epoch_and_repeat_with_the_seed(
    net: classifier.Classifier, online: Splits
) -> None:
    seen, again, other = watch(net, online), watch(net, online), watch(net, online, seed=2)
    stored = dict(enumerate(online.train.images[:, 0]))
    first, second = seen.train
    assert set(first) == set(range(48))
    assert not any(same(first, stored))
    assert not any(same(first, second))
    assert not any(same(first, other.train[0]))
    assert all(same(first, again.train[0]))
    assert all(same(second, again.train[1]))
    assert first[0].dtype == np.uint8
    assert max(np.abs(first[row].astype(int) - stored[row]).mean() for row in range(0, 48, 3)) > 2


@pytest.mark.parametrize(
    ("clean", "epochs", "expected"), [(0, 2, [0, 0]), (1, 2, [0, 1]), (2, 3, [0, 1, 1]), (9, 1, [0])]
)
@pytest.mark.parametrize("kind", ["stored", "drawn anew"])
def test_the_last_epochs_see_the_clean_images_but_the_first_never(
    net: classifier.Classifier, splits: Splits, online: Splits, kind: str, clean: int, epochs: int, expected: list[int]
) -> None:
    given = online if kind == "drawn anew" else splits
    stored = dict(enumerate(given.train.images[:, 0]))
    seen = watch(net, given, epochs=epochs, clean=clean).train
    assert [int(all(same(epoch, stored))) for epoch in seen] == expected


def test_a_view_depends_on_seed_epoch_and_row_alone(net: classifier.Classifier, online: Splits) -> None:
    seen = watch(net, online).train[1]
    for row in (0, 17, 47):
        image = online.train.images[row, 0].copy()
        expected = drawn(torch.from_numpy(image)[None], POLICY, [(1, 1, row)])[0]
        np.testing.assert_array_equal(seen[row], expected.numpy())


def test_validation_sees_clean_images_where_views_are_drawn(net: classifier.Classifier, online: Splits) -> None:
    for epoch in watch(net, online).val:
        assert all(same(epoch, dict(enumerate(online.val.images[:, 0]))))


def test_views_that_are_stored_are_trained_on_as_they_are(net: classifier.Classifier, splits: Splits) -> None:
    for row, image in watch(net, splits, epochs=1).train[0].items():
        assert any(np.array_equal(image, view) for view in splits.train.images[row])


def test_where_views_are_drawn_nothing_is_kept(
    net: classifier.Classifier, online: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(Cache(Activations(engine="torch"), tmp_path / "cache"), net, online, {3, 13}) == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["augment.online: no view is seen twice, so every epoch runs the frozen blocks"]
    assert not (tmp_path / "cache").exists()


def test_both_splits_lie_behind_the_same_depths(net: classifier.Classifier, splits: Splits, tmp_path: Path) -> None:
    kept = embed(Cache(Activations(engine="torch"), tmp_path / "cache"), net, splits, {0, 3, 13})
    assert list(kept) == [3, 13]
    assert [kept[13].train.stored.values.shape, kept[13].val.stored.values.shape] == [(48, 3, 576), (15, 1, 576)]
    assert embed(Cache(Activations(mode="off"), tmp_path / "off"), net, splits, {3}) == {}


# --- a head that sees earlier blocks --------------------------------------------------------


@pytest.fixture(scope="module")
def tapped(net: classifier.Classifier) -> classifier.Classifier:
    built = classifier.build(replace(net.card, taps=[2, 12]), "none", seed=0)
    built.freeze(5)
    return built.eval()


@pytest.mark.parametrize(("depth", "frozen"), [(1, []), (5, [2]), (12, [2, 12]), (13, [2, 12])])
def test_behind_frozen_blocks_lie_the_features_that_the_head_sees_of_them(
    tapped: classifier.Classifier, splits: Splits, tmp_path: Path, depth: int, frozen: list[int]
) -> None:
    net = deepcopy(tapped)
    net.freeze(depth)
    kept = embed(Cache(Activations(engine="torch", dtype="float32"), tmp_path / "cache"), net, splits, {depth})[depth]
    rows = np.arange(4)
    given = kept.val.take(rows, np.zeros_like(rows))
    assert [part.shape[1] for part in given[1:]] == ([sum(net.tap_widths[tap - 1] for tap in frozen)] if frozen else [])
    with torch.no_grad():
        expected = net(torch.from_numpy(splits.val.images[rows, 0]).permute(0, 3, 1, 2).float())
        found = classifier.Suffix(net).eval()(*given)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_the_head_sees_and_is_not_kept_leaves_the_depth_out(tapped: classifier.Classifier) -> None:
    stored: Any = object()
    assert behind({5: (stored, stored)}, tapped, 5) is None
    assert behind({}, tapped, 5) is None


# --- train and validation together ----------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["images", "kept"])
def test_joined_validation_images_are_trained_on_as_they_are(
    net: classifier.Classifier, splits: Splits, tmp_path: Path, kept: bool
) -> None:
    joined = splits._replace(joined=True)
    cache = Cache(Activations(engine="torch"), tmp_path / "cache")
    found = embed(cache, net, splits, {13})[13] if kept else None
    given: dict[int, tuple[np.ndarray, int]] = {}
    for (inputs, *_), labels, draws in ViewData(joined, 8, seed=2, behind=found).train_dataloader():
        given |= {int(draw): (one.numpy(), int(label)) for one, label, draw in zip(inputs, labels, draws, strict=True)}
    assert sorted(given) == list(range(63))
    train, val = (
        (found.train.stored.values, found.val.stored.values) if found else (splits.train.images, splits.val.images)
    )
    for row, (one, label) in given.items():
        assert label == joined.labels[row]
        if row < 48:
            assert any(np.array_equal(one, view) for view in train[row])
        else:
            np.testing.assert_array_equal(one, val[row - 48, 0])


def test_joined_splits_name_all_that_is_trained_on(splits: Splits) -> None:
    joined = splits._replace(joined=True)
    assert (len(splits.labels), len(joined.labels)) == (48, 63)
    assert joined.paths == [*splits.train.paths, *splits.val.paths]
