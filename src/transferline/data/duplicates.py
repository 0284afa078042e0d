"""Images that show the same thing: grouped, so that no split can leak into another."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transferline.artifacts import SplitName
from transferline.data import hamming
from transferline.data.inspection import Inspection, Rejection


class Twin(NamedTuple):
    """An image of test (or val), and the one of train that is nearest to it."""

    held: str
    train: str
    distance: int  # of the perceptual hashes, in bits; 0 also where the very pixels are the same


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
    if not images:
        return []
    hashes, which = np.unique(_hashes(images), return_inverse=True)
    looks = hamming.clusters(hashes, bits)[which]
    pixels = np.unique([image.pixels for image in images], return_inverse=True)[1]
    found = hamming.joined(len(hashes) + len(images), looks, len(hashes) + pixels)[looks]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in found.tolist()]


def exact(images: Sequence[Inspection]) -> list[bool]:
    """Per image, whether another one has the very same pixels."""
    alike = Counter(image.pixels for image in images)
    return [alike[image.pixels] > 1 for image in images]


def twins(
    images: Sequence[Inspection], groups: Sequence[int], splits: Sequence[SplitName], bits: int, of: SplitName
) -> list[Twin]:
    """The images of split `of` that have a twin in train, each with its nearest, sorted by path.

    Args:
        groups, bits: as in `groups`; twins are in one group, but not all images of a group are twins.
    """
    members: dict[int, dict[SplitName, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (group, name) in enumerate(zip(groups, splits, strict=True)):
        members[group][name].append(index)
    found = []
    for parts in members.values():
        if parts[of] and parts["train"]:
            held, train = [images[index] for index in parts[of]], [images[index] for index in parts["train"]]
            nearest, distance = hamming.nearest(_hashes(held), _hashes(train))
            pairs = zip(held, nearest.tolist(), distance.tolist(), strict=True)
            same = {image.pixels: image for image in reversed(train)}
            found += [
                Twin(image.path, same.get(image.pixels, train[near]).path, far)
                for image, near, far in pairs
                if far <= bits
            ]
    return sorted(found)


def _hashes(images: Sequence[Inspection]) -> hamming.Hashes:
    return np.array([int(image.phash, 16) for image in images], dtype=np.uint64)
