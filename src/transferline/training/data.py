"""Stored views to batches: which view of which image, in an order that the seed alone decides."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
from transferline.model.engines import EVERY
from transferline.model.stored import Stored
from transferline.training.sampling import Picks, Rows, ViewBatches, by_class

# What the network takes: uint8 images [B, S, S, 3], or, behind frozen blocks, activations [B, ...boundary] and, where
# the head sees frozen blocks, what is pooled behind these [B, K].
Inputs = tuple[Tensor, ...]
Source = Callable[[Rows, Rows], Inputs]  # of rows and, for each, a view
# Inputs, labels int64 [B] or [B, C], and draws int64 [B]: the row of an image in its arrays, plus their length for each
# time that it came before in the epoch.
Batch = tuple[Inputs, Tensor, Tensor]


class Splits(NamedTuple):
    """What may be seen in training: never the test split.

    Attributes:
        hashes: path -> sha256 of the arrays, as a stage's run has them.
        joined: whether the validation images are trained on as well, each as it is; their rows come last.
    """

    train: Arrays
    val: Arrays
    hashes: Mapping[str, str] = MappingProxyType({})
    joined: bool = False

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Of what is trained on."""
        return np.concatenate([self.train.labels, self.val.labels]) if self.joined else self.train.labels

    @property
    def paths(self) -> list[str]:
        """Of what is trained on."""
        return [*self.train.paths, *self.val.paths] if self.joined else self.train.paths


class Physical(NamedTuple):
    """Images that go through the network at once, whatever the batches are."""

    train: int
    val: int


class Kept(NamedTuple):
    """One split behind the frozen blocks.

    Attributes:
        stored: [N, V, ...boundary].
        pooled: [N, V, K'] behind every block but the last; None where the head sees none of them.
        columns: int64 [K], those of `pooled` that the head sees of the frozen blocks.
    """

    stored: Stored
    pooled: Stored | None = None
    columns: Rows | None = None

    def take(self, rows: Rows, views: Rows) -> Inputs:
        """Of each row, one view."""
        features = self.stored.take(rows, views)
        if self.pooled is None:
            return (features,)
        return features, self.pooled.take(rows, views)[:, self.columns]


class Behind(NamedTuple):
    """Both splits behind the frozen blocks."""

    train: Kept
    val: Kept


def whole(batch_size: int) -> Physical:
    """Batches as they are; validation, which keeps no gradients, takes at least 64 at once."""
    return Physical(batch_size, max(batch_size, 64))


def embed(
    cache: Cache, classifier: Classifier, splits: Splits, depths: Collection[int], config: Fit | None = None
) -> dict[int, Behind]:
    """The splits behind each of `depths` that the cache has or can compute, for the head of `classifier`.

    None where views are drawn anew, or where `config` has images mixed: what they give is then new in every epoch.
    """
    if config and config.mixes:
        print("mixup, cutmix: images are mixed anew, so every epoch runs the frozen blocks", flush=True)
        return {}
    found = kept_splits(cache, classifier, splits, {*depths, EVERY} if classifier.head.taps else depths)
    made = {depth: behind(found, classifier, depth) for depth in sorted(found) if depth != EVERY}
    return {depth: one for depth, one in made.items() if one}


def kept_splits(
    cache: Cache, classifier: Classifier, splits: Splits, depths: Collection[int]
) -> dict[int, tuple[Stored, Stored]]:
    """Train and val behind each of `depths`, EVERY among them, that the cache has or can compute, in one pass.

    Empty where views are drawn again every epoch.
    """
    if splits.train.online:
        print("augment.online: no view is seen twice, so every epoch runs the frozen blocks", flush=True)
        return {}
    count = splits.train.views + splits.val.views
    digests = [splits.hashes[(ARRAYS / name).as_posix()] for name in ("train", "val")]
    train = cache.open(classifier, splits.train, digests[0], depths, "train", count=count)
    val = cache.open(classifier, splits.val, digests[1], train, "val", count=count)
    return {depth: (train[depth], val[depth]) for depth in val}


def behind(kept: Mapping[int, tuple[Stored, Stored]], classifier: Classifier, depth: int) -> Behind | None:
    """What `kept_splits` gave, as a network frozen to `depth` with the head of `classifier` takes it.

    None where something of it is not kept.
    """
    taps = [number for number in classifier.head.taps if number <= depth]
    if depth not in kept or (taps and EVERY not in kept):
        return None
    train, val = kept[depth]
    if not taps:
        return Behind(Kept(train), Kept(val))
    columns = tap_columns(classifier.tap_widths, taps)
    return Behind(Kept(train, kept[EVERY][0], columns), Kept(val, kept[EVERY][1], columns))


def tap_columns(widths: Sequence[int], taps: Sequence[int]) -> Rows:
    """Of what is pooled behind every block, so many numbers for each, those of the blocks `taps`, counted from 1."""
    ends = np.cumsum([0, *widths])
    columns = [np.arange(ends[number - 1], ends[number]) for number in taps]
    return np.concatenate([np.empty(0, np.int64), *columns])


class ViewDataset(Dataset[Batch]):
    """Batches cut from what is memory-mapped: for a pair of draws and views, what `source` gives for them.

    Args:
        source: of rows and views.
        labels: of all rows.
    """

    def __init__(self, source: Source, labels: npt.NDArray[np.int64]) -> None:
        self.source, self.labels = source, labels

    def __getitem__(self, picks: Picks) -> Batch:
        draws, views = picks
        rows = draws % len(self.labels)
        return self.source(rows, views), torch.from_numpy(self.labels[rows]), torch.from_numpy(draws)


class ViewData(pl.LightningDataModule):
    """Train on all views, validate on clean images.

    Args:
        splits: `val.images[:, 0]` is what is validated on.
        batch_size: images a batch.
        seed: of order and views.
        behind: what the frozen blocks gave, for a network that starts there; None: uint8 images [B, S, S, 3].
        balanced: whether every class is drawn equally often.
        physical: what fits into memory; None: whole batches.
        clean_from: the first epoch that sees the clean images alone.
    """

    def __init__(
        self,
        splits: Splits,
        batch_size: int,
        seed: int,
        behind: Behind | None = None,
        *,
        balanced: bool = False,
        physical: Physical | None = None,
        clean_from: float = math.inf,
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.seed, self.behind = splits, batch_size, seed, behind
        self.physical, self.clean_from = physical or whole(batch_size), clean_from
        self.labels = splits.labels
        self.groups = by_class(self.labels) if balanced else None

    def train_dataloader(self) -> DataLoader[Batch]:
        train = self.splits.train
        source = self.behind.train.take if self.behind else _images(train)
        if self.splits.joined:
            source = _joined(
                source, self.behind.val.take if self.behind else _images(self.splits.val), len(train.labels)
            )
        views, most = train.images.shape[1], self.physical.train
        batches = ViewBatches(
            len(self.labels), views, self.batch_size, self.seed, self.groups, most=most, clean_from=self.clean_from
        )
        return DataLoader(ViewDataset(source, self.labels), batch_size=None, sampler=batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        val, count, size = self.splits.val, len(self.splits.val.labels), self.physical.val
        source = self.behind.val.take if self.behind else _images(val)
        picks = [(rows, np.zeros_like(rows)) for rows in np.array_split(np.arange(count), max(-(-count // size), 1))]
        return DataLoader(ViewDataset(source, val.labels), batch_size=None, sampler=picks)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment on the device, where views are drawn anew."""
        assert self.trainer is not None
        return self.drawn(batch, self.trainer.current_epoch) if self.trainer.training else batch

    def drawn(self, batch: Batch, epoch: int) -> Batch:
        """A batch of train with the views of that epoch, a function of seed, epoch and draw alone."""
        if not self.splits.train.online or epoch >= self.clean_from:
            return batch
        from transferline.data.transforms import drawn

        (images,), labels, draws = batch
        seeds = [(self.seed, epoch, draw) for draw in draws.tolist()]
        return (drawn(images, self.splits.train.online, seeds),), labels, draws


def _joined(train: Source, val: Source, images: int) -> Source:
    """Of rows from `images` on, validation images as they are."""

    def take(rows: Rows, views: Rows) -> Inputs:
        late = rows >= images
        parts = train(rows[~late], views[~late]), val(rows[late] - images, np.zeros_like(rows[late]))
        back = torch.from_numpy(np.argsort(np.argsort(late, kind="stable"), kind="stable"))
        return tuple(torch.cat(pair)[back] for pair in zip(*parts, strict=True))

    return take


def _images(arrays: Arrays) -> Source:
    return lambda rows, views: (torch.from_numpy(arrays.images[rows, views]),)
