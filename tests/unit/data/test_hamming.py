import numpy as np
import pytest

from transferline.data import hamming


def scattered(seed: int, count: int = 400, centres: int = 20, most: int = 20) -> np.ndarray:
    """Hashes that lie up to `most` bits from one of some centres."""
    rng = np.random.default_rng(seed)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, most), replace=False)) for _ in range(count)]
    seeds = rng.integers(0, 2**64, centres, dtype=np.uint64)
    return np.array([seeds[index % centres] ^ np.uint64(flip) for index, flip in enumerate(flips)], dtype=np.uint64)


def brute_force(hashes: np.ndarray, bits: int) -> list[int]:
    """The first member of each hash's cluster, by comparing every pair."""
    close = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits
    found = np.full(len(hashes), -1)
    for index in range(len(hashes)):
        edge = np.arange(len(hashes)) == index
        while found[index] < 0:
            wider = close[edge].any(axis=0)
            if (wider == edge).all():
                found[edge] = index
            edge = wider
    return found.tolist()


@pytest.mark.parametrize("bits", [0, 1, 4, 7, 16])
def test_clusters_are_those_of_comparing_every_pair(bits):
    for seed in range(3):
        hashes = scattered(10 * seed + bits)
        expected = brute_force(hashes, bits)
        assert hamming.clusters(hashes, bits).tolist() == expected
        assert bits == 0 or 1 < len(set(expected)) < len(hashes)


@pytest.mark.parametrize("flush", [1, 1 << 20])
def test_many_in_one_bucket_are_clustered_over_the_edges_of_tiles(monkeypatch, flush):
    monkeypatch.setattr(hamming, "_ROWS", 7)
    monkeypatch.setattr(hamming, "_COLUMNS", 31)
    monkeypatch.setattr(hamming, "_FLUSH", flush)
    low = np.random.default_rng(0).permutation(2**13)[:600].astype(np.uint64)  # four of five bands are the same
    for hashes in (low, scattered(1, centres=1, most=30)):
        assert hamming.clusters(hashes, 2).tolist() == brute_force(hashes, 2)


def test_a_chain_is_one_cluster_however_long():
    count = 5000
    order = np.random.default_rng(0).permutation(count)
    assert set(hamming.joined(count, order[:-1], order[1:]).tolist()) == {0}
    assert hamming.joined(4, np.array([3]), np.array([1])).tolist() == [0, 1, 2, 1]


def test_one_hundred_thousand_hashes_are_clustered_whatever_they_are():
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    assert len(set(hamming.clusters(random, 4).tolist())) == len(random)
    random[:20_000] = rng.permutation(2**15)[:20_000]  # close to each other: 24 million pairs
    found = hamming.clusters(random, 4)
    assert set(found[:20_000].tolist()) == {0}
    assert len(set(found.tolist())) == 80_001


def test_the_nearest_is_the_first_of_the_closest():
    hashes, among = scattered(3, 300), np.concatenate([scattered(1, 4000), scattered(3, 50), scattered(3, 50)])
    index, distance = hamming.nearest(hashes, among)
    every = np.bitwise_count(hashes[:, None] ^ among[None])
    np.testing.assert_array_equal(index, every.argmin(axis=1))
    np.testing.assert_array_equal(distance, every.min(axis=1))


def test_nothing_has_no_clusters():
    assert hamming.clusters(np.array([], dtype=np.uint64), 4).tolist() == []
