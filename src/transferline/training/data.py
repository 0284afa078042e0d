"""Stored views to batches: which view of which image, in an order that the seed alone decides."""

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from transferline.artifacts import ARRAYS, Arrays
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier
from transferline.model.stored import Stored

Picks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # rows and, for each, a view
Source = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Tensor]  # of such picks
Batch = tuple[Tensor, Tensor, Tensor]  # what the network takes, labels int64 [B], rows int64 [B]


class Splits(NamedTuple):
    """What may be seen in training: never the test split."""

    train: Arrays
    val: Arrays
    hashes: Mapping[str, str] = MappingProxyType({})  # path -> sha256 of the arrays, as a stage's run has them


class Behind(NamedTuple):
    """Both splits behind the frozen blocks."""

    train: Stored
    val: Stored


def embed(cache: Cache, classifier: Classifier, splits: Splits, depths: Collection[int]) -> dict[int, Behind]:
    """The splits behind each of `depths` that the cache has or can compute; none where views are drawn anew."""
    if splits.train.online:
        print("augment.online: no view is seen twice, so every epoch runs the frozen blocks", flush=True)
        return {}
    train = cache.open(classifier, splits.train, splits.hashes[(ARRAYS / "train").as_posix()], depths, "train")
    val = cache.open(classifier, splits.val, splits.hashes[(ARRAYS / "val").as_posix()], train, "val")
    return {depth: Behind(train[depth], val[depth]) for depth in val}


class ViewBatches(Sampler[Picks]):
    """Every image once an epoch, shuffled, each as a view drawn for that epoch.

    The draw is a function of (seed, epoch) alone, so a resumed epoch sees what an unbroken one saw.
    A last batch of a single image is left out: BatchNorm cannot be trained on it.
    """

    def __init__(self, images: int, views: int, batch_size: int, seed: int) -> None:
        self.images, self.views, self.batch_size, self.seed, self.epoch = images, views, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.images, self.batch_size)
        return max(full + (rest > 1), 1)

    def __iter__(self) -> Iterator[Picks]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.images)
        views = rng.integers(self.views, size=self.images)
        for batch in range(len(self)):
            rows = np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])
            yield rows, views[rows]


class ViewDataset(Dataset[Batch]):
    """Batches cut from what is memory-mapped: for a pair of rows and views, what `source` gives for them."""

    def __init__(self, source: Source, labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> None:
        self.source, self.labels, self.rows = source, labels, rows

    def __getitem__(self, picks: Picks) -> Batch:
        rows = self.rows[picks[0]]
        return self.source(rows, picks[1]), torch.from_numpy(self.labels[rows]), torch.from_numpy(rows)


class ViewData(pl.LightningDataModule):
    """Train on all views, validate on clean images.

    Args:
        splits: `val.images[:, 0]` is what is validated on.
        batch_size: images a step; validation takes at least 64 at once.
        seed: of order and views.
        fraction: share of the training images that is used, the same share of every class.
        behind: what the frozen blocks gave, for a network that starts there; None: uint8 images [B, S, S, 3].
    """

    def __init__(
        self, splits: Splits, batch_size: int, seed: int, fraction: float = 1.0, behind: Behind | None = None
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.seed, self.behind = splits, batch_size, seed, behind
        self.rows = stratified_rows(splits.train.labels, fraction, seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        train = self.splits.train
        source = self.behind.train.take if self.behind else _images(train)
        batches = ViewBatches(len(self.rows), train.images.shape[1], self.batch_size, self.seed)
        return DataLoader(ViewDataset(source, train.labels, self.rows), batch_size=None, sampler=batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        val, count, size = self.splits.val, len(self.splits.val.labels), max(self.batch_size, 64)
        source = self.behind.val.take if self.behind else _images(val)
        picks = [(rows, np.zeros_like(rows)) for rows in np.array_split(np.arange(count), max(-(-count // size), 1))]
        return DataLoader(ViewDataset(source, val.labels, np.arange(count)), batch_size=None, sampler=picks)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment on the device, where views are drawn anew."""
        assert self.trainer is not None
        return self.drawn(batch, self.trainer.current_epoch) if self.trainer.training else batch

    def drawn(self, batch: Batch, epoch: int) -> Batch:
        """A batch of train with the views of that epoch, a function of seed, epoch and row alone."""
        if not self.splits.train.online:
            return batch
        from transferline.data.transforms import drawn

        images, labels, rows = batch
        seeds = [(self.seed, epoch, row) for row in rows.tolist()]
        return drawn(images, self.splits.train.online, seeds), labels, rows


def _images(arrays: Arrays) -> Source:
    return lambda rows, views: torch.from_numpy(arrays.images[rows, views])


def stratified_rows(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """Sorted rows of a seeded sample with `fraction` of every class, at least one row of each."""
    if fraction >= 1:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(rows)[: max(round(fraction * len(rows)), 1)]
        for rows in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    return np.sort(np.concatenate(chosen))
