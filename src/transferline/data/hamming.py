"""64-bit hashes that differ in few bits: their clusters, without comparing every pair, in bounded memory.

Two hashes that differ in at most b bits agree in at least one of b + 1 bands of the 64 bits (the
pigeonhole principle), so that only hashes which share a band are compared. Many may share one, as blank
images do: those are compared in tiles of fixed size, and tiles whose hashes are in one cluster already
are left out.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

_BITS = 64
_ROWS, _COLUMNS = 64, 2048  # of a tile: its 1 MB of differences stay in a core's cache
_FLUSH = 1 << 20  # edges kept before they are joined

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def clusters(hashes: Hashes, bits: int) -> Indices:
    """The cluster of each hash, int64 [N]: hashes that differ in at most `bits` bits are joined, transitively.

    Args:
        hashes: [N], distinct or not.
    """
    found = np.arange(len(hashes))
    pending: list[tuple[Indices, Indices]] = []
    waiting = 0
    for left, right in _tiles(hashes, bits, found):
        near = np.bitwise_count(hashes[left, None] ^ hashes[None, right]) <= bits
        if not near.any():  # nearly always
            continue
        near &= found[left, None] != found[None, right]
        rows, columns = np.nonzero(near)
        pending.append((left[rows], right[columns]))
        waiting += len(rows)
        if waiting >= _FLUSH or len(rows) * 4 >= near.size:  # a dense tile: what it joins need not be compared again
            found[:] = _merged(found, pending)
            pending, waiting = [], 0
    return _merged(found, pending)


def joined(count: int, left: Indices, right: Indices) -> Indices:
    """The connected component of each of `count` nodes, for edges `left[i]`-`right[i]`: its first node, int64 [count].

    Roots hook onto their smallest neighbour, then every path is cut short (Shiloach and Vishkin 1982), round by
    round: a few rounds serve, each of them over whole arrays.
    """
    first = np.arange(count)
    while len(left):
        low, high = np.minimum(first[left], first[right]), np.maximum(first[left], first[right])
        apart = low != high
        left, right = low[apart], high[apart]
        np.minimum.at(first, right, left)
        while (first[first] != first).any():
            first = first[first]
    return first


def nearest(hashes: Hashes, among: Hashes) -> tuple[Indices, Indices]:
    """For each of `hashes` [N], the first of the closest in `among` [M > 0], and how many bits they differ in."""
    index, distance = np.zeros(len(hashes), dtype=np.int64), np.full(len(hashes), _BITS + 1)
    for low in range(0, len(hashes), _ROWS):
        rows = slice(low, low + _ROWS)
        for start in range(0, len(among), _COLUMNS):
            bits = np.bitwise_count(hashes[rows, None] ^ among[None, start : start + _COLUMNS])
            best = bits.argmin(axis=1)
            least = bits[np.arange(len(bits)), best]
            closer = least < distance[rows]
            index[rows][closer], distance[rows][closer] = start + best[closer], least[closer]
    return index, distance


def _tiles(hashes: Hashes, bits: int, found: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Indices of hashes to compare with each other, [<= _ROWS] and [<= _COLUMNS]; `found` is read as it is by then."""
    edges = [_BITS * band // (bits + 1) for band in range(bits + 2)]
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=~band[order[:1]]))
        ends = np.append(starts[1:], len(order))
        shared = ends - starts > 1
        for start, end in zip(starts[shared].tolist(), ends[shared].tolist(), strict=True):
            yield from _tiles_of(order[start:end], found)


def _tiles_of(bucket: Indices, found: Indices) -> Iterator[tuple[Indices, Indices]]:
    for low in range(0, len(bucket), _ROWS):
        left = bucket[low : low + _ROWS]
        for start in range(low, len(bucket), _COLUMNS):
            right = bucket[start : start + _COLUMNS]
            if (found[left] != found[left[0]]).any() or (found[right] != found[left[0]]).any():
                yield left, right


def _merged(found: Indices, edges: list[tuple[Indices, Indices]]) -> Indices:
    """Clusters after `edges` have joined some of those in `found`."""
    if not edges:
        return found
    left, right = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    return joined(len(found), found[left], found[right])[found]
