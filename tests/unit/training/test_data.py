"""Which view of which image, in which order."""

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
from transferline.training.data import Splits, ViewData, embed
from transferline.training.fit import fit

POLICY = (HorizontalFlip(name="horizontal_flip"), GaussianNoise(name="gaussian_noise", sigma=(5.0, 10.0)))


def test_validation_sees_the_clean_view_of_every_image_in_order(splits: Splits) -> None:
    batches = list(ViewData(splits, 4, seed=0).val_dataloader())
    seen = np.concatenate([images.numpy() for images, *_ in batches])
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
        self.train[-1] |= dict(zip(batch[2].tolist(), batch[0].numpy().copy(), strict=True))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.val[-1] |= dict(zip(batch[2].tolist(), batch[0].numpy().copy(), strict=True))


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


def watch(net: classifier.Classifier, splits: Splits, seed: int = 1, epochs: int = 2) -> Seen:
    seen, settings = Seen(), {"lr": 1e-3, "batch_size": 16, "seed": seed, "label": "test"}
    fit(net, splits, Fit(epochs=epochs), recorder=ListRecorder(), callbacks=[seen], **settings)
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
    behind = embed(Cache(Activations(engine="torch"), tmp_path / "cache"), net, splits, {0, 3, 13})
    assert list(behind) == [3, 13]
    assert [behind[13].train.values.shape, behind[13].val.values.shape] == [(48, 3, 576), (15, 1, 576)]
    assert embed(Cache(Activations(mode="off"), tmp_path / "off"), net, splits, {3}) == {}
