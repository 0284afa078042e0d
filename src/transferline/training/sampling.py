"""Which images make which batches of an epoch: a function of (seed, epoch) alone."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Rows = npt.NDArray[np.int64]
Picks = tuple[Rows, Rows]  # draws and, for each, a view


class ViewBatches(Sampler[Picks]):
    """As many draws an epoch as there are images, shuffled, each as a view drawn for that epoch.

    A resumed epoch so sees what an unbroken one saw. Without `groups`, every image is drawn once. With them, each
    group is drawn from equally often, and each of its images as often as the others, give or take one (class-balanced
    sampling, as in Kang et al. 2019, arXiv 1910.09217).

    Training ends on images as a model in use sees them (Touvron et al. 2019, arXiv 1906.06423, for sizes of objects; Ge
    et al. 2021, arXiv 2107.08430, for strong augmentation).

    A draw is the number of an image, plus `images` for each time that it came before in the epoch. A last batch of a
    single image is left out: BatchNorm cannot be trained on it.

    Args:
        images: how many there are.
        views: stored of each.
        batch_size: images a batch.
        seed: of order, views and draws.
        groups: numbers of images, one array a class; None: every image once.
        most: images that fit into memory at once; larger batches come in parts, one after the other. None: any number.
        clean_from: the first epoch in which every view is the clean one, number 0.

    Attributes:
        first: the batch that the next pass starts at; those after it start at 0.
    """

    def __init__(
        self,
        images: int,
        views: int,
        batch_size: int,
        seed: int,
        groups: Sequence[Rows] | None = None,
        *,
        most: int | None = None,
        clean_from: float = math.inf,
    ) -> None:
        self.images, self.views, self.batch_size, self.seed, self.groups = images, views, batch_size, seed, groups
        full, rest = divmod(images, batch_size)
        self.batches = max(full + (rest > 1), 1)  # whole ones, of an epoch
        self.most, self.clean_from = most or batch_size, clean_from
        self.parts = parts(batch_size, self.most)  # of a batch; an epoch's last one may have fewer
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        last = min(self.batch_size, self.images - (self.batches - 1) * self.batch_size)
        return (self.batches - 1) * self.parts + parts(last, self.most)

    def _pieces(self) -> Iterator[Rows]:
        """Places in the order of an epoch: batches, as they fit into memory."""
        for start in range(0, self.batches * self.batch_size, self.batch_size):
            places = np.arange(start, min(start + self.batch_size, self.images))
            yield from np.array_split(places, parts(len(places), self.most))

    def images_in_step(self, batch: int, accumulate: int) -> int:
        """Images behind the step of the optimiser that a batch, or a part of one, belongs to.

        Args:
            batch: its number in the epoch, parts counted.
            accumulate: whole batches a step; an epoch's last step may have fewer.
        """
        step, large = batch // (accumulate * self.parts), accumulate * self.batch_size
        return min(large, min(self.batches * self.batch_size, self.images) - step * large)

    def __iter__(self) -> Iterator[Picks]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.images) if self.groups is None else self._balanced(self.groups, rng)
        views = rng.integers(self.views if self.epoch < self.clean_from else 1, size=self.images)
        if self.groups is None:
            views = views[order]
        draws = order + self.images * _times_before(order)
        first, self.first = self.first, 0
        for places in islice(self._pieces(), first, None):
            ascending = places[np.argsort(order[places], kind="stable")]
            yield draws[ascending], views[ascending]

    def _balanced(self, groups: Sequence[Rows], rng: np.random.Generator) -> Rows:
        shares = np.full(len(groups), self.images // len(groups))
        shares[rng.permutation(len(groups))[: self.images % len(groups)]] += 1
        drawn = []
        for rows, share in zip(groups, shares, strict=True):
            times, rest = divmod(int(share), len(rows))
            drawn += [np.tile(rows, times), rng.permutation(rows)[:rest]]
        return rng.permutation(np.concatenate(drawn))


def parts(images: int, most: int) -> int:
    """In how many parts a batch comes of which so many images fit at once.

    None of them is a single image, on which BatchNorm cannot be trained, unless no more than one fits.
    """
    return images if most == 1 else min(-(-images // most), max(images // 2, 1))


def _times_before(rows: Rows) -> Rows:
    """How often each entry came before."""
    order = np.argsort(rows, kind="stable")
    ascending, times = rows[order], np.empty_like(rows)
    times[order] = np.arange(len(rows)) - np.searchsorted(ascending, ascending)
    return times


def by_class(labels: npt.NDArray[np.int64]) -> list[Rows]:
    """The numbers of the images of each class that has any.

    Args:
        labels: int64 [N], or [N, C] of 0 and 1; then an image is in each of its classes, and those that have none
            are one class more.
    """
    if labels.ndim == 1:
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]
    columns = np.column_stack([labels, ~labels.any(axis=1)])
    return [rows for column in columns.T if len(rows := np.flatnonzero(column))]


def stratified_rows(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> Rows:
    """Sorted rows of a seeded sample with `fraction` of every class, at least one row of each.

    Where images have several labels, it is a sample of all, with an image of each class that it would lack.

    Args:
        labels: as in `by_class`.
        fraction: above 0, at most 1.
    """
    if fraction >= 1:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    if labels.ndim == 1:
        chosen = [rng.permutation(rows)[: max(round(fraction * len(rows)), 1)] for rows in by_class(labels)]
        return np.sort(np.concatenate(chosen))
    sample = rng.permutation(len(labels))[: max(round(fraction * len(labels)), 1)]
    lacking = [rng.choice(rows, 1) for rows in by_class(labels) if not np.isin(rows, sample).any()]
    return np.unique(np.concatenate([sample, *lacking]))
