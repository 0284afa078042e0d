"""Images that show the same thing: grouped, so that no split can leak into another."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transferline.data.inspection import Inspection, Rejection

_BITS = 64  # of a perceptual hash
Key = TypeVar("Key", bound=Hashable)


def conflicts(images: Sequence[Inspection]) -> list[Rejection]:
    """Every image whose very pixels also have another label; which one is right cannot be known."""
    labels: dict[str, set[str]] = defaultdict(set)
    for image in images:
        labels[image.pixels].add(image.label)
    return [
        Rejection(
            image.path, f"conflicting labels: also in {', '.join(sorted(other or 'no label' for other in others))}"
        )
        for image in images
        if (others := labels[image.pixels] - {image.label})
    ]


def groups(images: Sequence[Inspection], bits: int) -> list[int]:
    """A group number per image, counted from 0 in the order of first members.

    Images are joined, transitively, where their pixels are the same or where their perceptual
    hashes differ in at most `bits` bits.
    """
    parents = list(range(len(images)))
    for left, right in _pairs(images, bits):
        parents[_root(parents, right)] = _root(parents, left)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(_root(parents, index), len(numbers)) for index in range(len(images))]


def exact(images: Sequence[Inspection]) -> list[bool]:
    """Per image, whether another one has the very same pixels."""
    alike = _alike([image.pixels for image in images])
    return [len(alike[image.pixels]) > 1 for image in images]


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = index = parents[parents[index]]
    return index


def _pairs(images: Sequence[Inspection], bits: int) -> Iterator[tuple[int, int]]:
    for key in ("pixels", "phash"):
        for members in _alike([getattr(image, key) for image in images]).values():
            yield from ((members[0], other) for other in members[1:])
    first = {phash: members[0] for phash, members in _alike([image.phash for image in images]).items()}
    hashes = np.array([int(phash, 16) for phash in first], dtype=np.uint64)
    where = list(first.values())
    yield from ((where[left], where[right]) for left, right in close_pairs(hashes, bits))


def close_pairs(hashes: npt.NDArray[np.uint64], bits: int) -> Iterator[tuple[int, int]]:
    """Index pairs of distinct hashes that differ in at most `bits` bits; a pair may come twice.

    Two hashes that differ in at most b bits agree in at least one of b + 1 bands (the pigeonhole
    principle), so that only hashes which share a band are compared.
    """
    edges = [_BITS * band // (bits + 1) for band in range(bits + 2)]
    for low, high in pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        for members in _alike(((hashes >> np.uint64(low)) & mask).tolist()).values():
            bucket = np.array(members)
            for position, left in enumerate(members[:-1]):
                rest = bucket[position + 1 :]
                close = np.bitwise_count(hashes[rest] ^ hashes[left]) <= bits
                yield from ((left, right) for right in rest[close].tolist())


def _alike(keys: Sequence[Key]) -> dict[Key, list[int]]:
    """Indices per key."""
    found: dict[Key, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        found[key].append(index)
    return found
