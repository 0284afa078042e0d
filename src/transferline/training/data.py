"""Stored views to batches: which view of which image, in an order that the seed alone decides."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transferline.artifacts import ARRAYS, Arrays
from transferline.fitting import Fit
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier
from transferline.model.stored import Stored
from transferline.training.sampling import Picks, Rows, ViewBatches, by_class, stratified_rows

Source = Callable[[Rows, Rows], Tensor]  # of rows and, for each, a view
# What the network takes, labels int64 [B] or [B, C], and draws int64 [B]: the row of an image in its arrays, plus their
# length for each time that it came before in the epoch.
Batch = tuple[Tensor, Tensor, Tensor]


class Splits(NamedTuple):
    """What may be seen in training: never the test split."""

    train: Arrays
    val: Arrays
    hashes: Mapping[str, str] = MappingProxyType({})  # path -> sha256 of the arrays, as a stage's run has them


class Physical(NamedTuple):
    """Images that go through the network at once, whatever the batches are."""

    train: int
    val: int


class Behind(NamedTuple):
    """Both splits behind the frozen blocks."""

    train: Stored
    val: Stored


def whole(batch_size: int) -> Physical:
    """Batches as they are; validation, which keeps no gradients, takes at least 64 at once."""
    return Physical(batch_size, max(batch_size, 64))


def embed(
    cache: Cache, classifier: Classifier, splits: Splits, depths: Collection[int], config: Fit | None = None
) -> dict[int, Behind]:
    """The splits behind each of `depths` that the cache has or can compute.

    None where views are drawn anew, or where `config` has images mixed: what they give is then new in every epoch.
    """
    if splits.train.online:
        print("augment.online: no view is seen twice, so every epoch runs the frozen blocks", flush=True)
        return {}
    if config and config.mixes:
        print("mixup, cutmix: images are mixed anew, so every epoch runs the frozen blocks", flush=True)
        return {}
    count = splits.train.views + splits.val.views
    digests = [splits.hashes[(ARRAYS / name).as_posix()] for name in ("train", "val")]
    train = cache.open(classifier, splits.train, digests[0], depths, "train", count=count)
    val = cache.open(classifier, splits.val, digests[1], train, "val", count=count)
    return {depth: Behind(train[depth], val[depth]) for depth in val}


class ViewDataset(Dataset[Batch]):
    """Batches cut from what is memory-mapped: for a pair of draws and views, what `source` gives for them.

    Args:
        source: of rows and views.
        labels: of all rows.
        rows: those that draws count.
    """

    def __init__(self, source: Source, labels: npt.NDArray[np.int64], rows: Rows) -> None:
        self.source, self.labels, self.rows = source, labels, rows

    def __getitem__(self, picks: Picks) -> Batch:
        draws, views = picks
        rows, times = self.rows[draws % len(self.rows)], draws // len(self.rows)
        drawn = torch.from_numpy(rows + times * len(self.labels))
        return self.source(rows, views), torch.from_numpy(self.labels[rows]), drawn


class ViewData(pl.LightningDataModule):
    """Train on all views, validate on clean images.

    Args:
        splits: `val.images[:, 0]` is what is validated on.
        batch_size: images a batch.
        seed: of order and views.
        fraction: share of the training images that is used, the same share of every class.
        behind: what the frozen blocks gave, for a network that starts there; None: uint8 images [B, S, S, 3].
        balanced: whether every class is drawn equally often.
        physical: what fits into memory; None: whole batches.
    """

    def __init__(
        self,
        splits: Splits,
        batch_size: int,
        seed: int,
        fraction: float = 1.0,
        behind: Behind | None = None,
        *,
        balanced: bool = False,
        physical: Physical | None = None,
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.seed, self.behind = splits, batch_size, seed, behind
        self.physical = physical or whole(batch_size)
        self.rows = stratified_rows(splits.train.labels, fraction, seed)
        self.groups = by_class(splits.train.labels[self.rows]) if balanced else None

    def train_dataloader(self) -> DataLoader[Batch]:
        train = self.splits.train
        source = self.behind.train.take if self.behind else _images(train)
        views, most = train.images.shape[1], self.physical.train
        batches = ViewBatches(len(self.rows), views, self.batch_size, self.seed, self.groups, most=most)
        return DataLoader(ViewDataset(source, train.labels, self.rows), batch_size=None, sampler=batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        val, count, size = self.splits.val, len(self.splits.val.labels), self.physical.val
        source = self.behind.val.take if self.behind else _images(val)
        picks = [(rows, np.zeros_like(rows)) for rows in np.array_split(np.arange(count), max(-(-count // size), 1))]
        return DataLoader(ViewDataset(source, val.labels, np.arange(count)), batch_size=None, sampler=picks)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment on the device, where views are drawn anew."""
        assert self.trainer is not None
        return self.drawn(batch, self.trainer.current_epoch) if self.trainer.training else batch

    def drawn(self, batch: Batch, epoch: int) -> Batch:
        """A batch of train with the views of that epoch, a function of seed, epoch and draw alone."""
        if not self.splits.train.online:
            return batch
        from transferline.data.transforms import drawn

        images, labels, draws = batch
        seeds = [(self.seed, epoch, draw) for draw in draws.tolist()]
        return drawn(images, self.splits.train.online, seeds), labels, draws


def _images(arrays: Arrays) -> Source:
    return lambda rows, views: torch.from_numpy(arrays.images[rows, views])
