import numpy as np
import pytest

from transferline.data import duplicates
from transferline.data.inspection import Inspection


def image(path: str, pixels: str = "", phash: int = 0, label: str = "a") -> Inspection:
    return Inspection(path, label, None, "0" * 64, pixels or path, f"{phash:016x}", 40, 40)


def brute_force(hashes: np.ndarray, bits: int) -> set[tuple[int, int]]:
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    return {(i, j) for i, j in np.argwhere(distance <= bits).tolist() if i < j}


@pytest.mark.parametrize("bits", [0, 1, 4, 7, 16])
def test_banding_finds_every_close_pair_and_no_other(bits):
    rng = np.random.default_rng(bits)
    seeds = rng.integers(0, 2**64, 20, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, size=rng.integers(0, 20), replace=False)) for _ in range(200)]
    hashes = np.unique(np.array([seeds[i % 20] ^ np.uint64(flip) for i, flip in enumerate(flips)], dtype=np.uint64))
    found = {(min(pair), max(pair)) for pair in duplicates.close_pairs(hashes, bits)}
    assert found == brute_force(hashes, bits)
    assert bits == 0 or found


def test_groups_join_transitively_and_are_numbered_in_order():
    images = [image("1", phash=0), image("2", phash=0xFF00), image("3", phash=0b1), image("4", phash=0b111)]
    assert duplicates.groups(images, 2) == [0, 1, 0, 0]
    assert duplicates.groups(images, 1) == [0, 1, 0, 2]


def test_the_same_pixels_are_one_group_whatever_the_hash():
    images = [image("1", "same", phash=0), image("2", phash=0xFFFF), image("3", "same", phash=0xFFFF0000)]
    assert duplicates.groups(images, 0) == [0, 1, 0]
    assert duplicates.exact(images) == [True, False, True]


def test_no_images_have_no_groups():
    assert duplicates.groups([], 4) == []


def test_conflicting_labels_name_the_other_class():
    images = [image("1", "x", label="a"), image("2", "x", label="b"), image("3", "y", label="a"), image("4", "y")]
    found = {rejection.path: rejection.reason for rejection in duplicates.conflicts(images)}
    assert found == {"1": "conflicting labels: also in b", "2": "conflicting labels: also in a"}


def test_ten_thousand_equal_hashes_are_grouped_at_once():
    assert set(duplicates.groups([image(str(i), phash=5) for i in range(10_000)], 4)) == {0}
