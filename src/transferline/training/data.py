"""Stored views to batches: which view of which image, in an order that the seed alone decides."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from transferline.artifacts import Arrays

Picks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # rows and, for each, a view


class Splits(NamedTuple):
    """What may be seen in training: never the test split."""

    train: Arrays
    val: Arrays


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


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """Batches cut from the memory-mapped arrays.

    Items: uint8 [B, S, S, 3] and int64 [B], for a pair of rows and views.
    """

    def __init__(self, arrays: Arrays, rows: npt.NDArray[np.int64]) -> None:
        self.arrays, self.rows = arrays, rows

    def __getitem__(self, picks: Picks) -> tuple[Tensor, Tensor]:
        rows = self.rows[picks[0]]
        return torch.from_numpy(self.arrays.images[rows, picks[1]]), torch.from_numpy(self.arrays.labels[rows])


class ViewData(pl.LightningDataModule):
    """Train on all views, validate on clean images.

    Args:
        splits: `val.images[:, 0]` is what is validated on.
        batch_size: images a step; validation takes at least 64 at once.
        seed: of order and views.
        fraction: share of the training images that is used, the same share of every class.
    """

    def __init__(self, splits: Splits, batch_size: int, seed: int, fraction: float = 1.0) -> None:
        super().__init__()
        self.splits, self.batch_size, self.seed = splits, batch_size, seed
        self.rows = stratified_rows(splits.train.labels, fraction, seed)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        batches = ViewBatches(len(self.rows), self.splits.train.images.shape[1], self.batch_size, self.seed)
        return DataLoader(ViewDataset(self.splits.train, self.rows), batch_size=None, sampler=batches)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        count, size = len(self.splits.val.labels), max(self.batch_size, 64)
        picks = [(rows, np.zeros_like(rows)) for rows in np.array_split(np.arange(count), max(-(-count // size), 1))]
        return DataLoader(ViewDataset(self.splits.val, np.arange(count)), batch_size=None, sampler=picks)


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
