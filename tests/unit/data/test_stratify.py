"""Images with any number of labels are split so that each label keeps its share, whatever it occurs with."""

from collections import Counter

import numpy as np
import pytest

from transferline.data import stratify
from transferline.data.split import Member

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def members(sets: list[str], group_size: int = 1) -> list[Member]:
    return [Member(label, index // group_size, f"image {index}") for index, label in enumerate(sets)]


def correlated(images: int) -> list[str]:
    """A common label, one that mostly comes with it, and a rare one."""
    rng = np.random.default_rng(0)
    common = rng.random(images) < 0.5
    second = common & (rng.random(images) < 0.4)
    rare = rng.random(images) < 0.04
    rows = zip(common, second, rare, strict=True)
    return [";".join(np.array(["a", "b", "c"])[list(row)]) for row in rows]


def shares_of(label: str, images: list[Member], splits: list[str]) -> dict[str, float]:
    held = Counter(name for member, name in zip(images, splits, strict=True) if label in member.label.split(";"))
    return {name: held[name] / sum(held.values()) for name in SHARES}


@pytest.mark.parametrize("label", ["a", "b", "c", ""])
def test_every_label_keeps_its_share_and_so_do_images_without_any(label: str) -> None:
    images = members(correlated(500))
    splits = stratify.assign(images, SHARES, 1)
    assert shares_of(label, images, splits) == pytest.approx(SHARES, abs=0.05)
    assert splits.count("train") == pytest.approx(350, abs=5)


def test_labels_are_nearer_their_shares_than_by_chance() -> None:
    images = members(correlated(500))
    drawn = np.random.default_rng(1).permutation(["train"] * 350 + ["val"] * 75 + ["test"] * 75).tolist()

    def off(splits: list[str]) -> float:
        return sum(abs(shares_of(label, images, splits)[name] - SHARES[name]) for label in "abc" for name in SHARES)

    assert off(stratify.assign(images, SHARES, 1)) < 0.4 * off(drawn)


def test_three_images_of_a_label_reach_every_split() -> None:
    sets = ["rare;common"] * 3 + ["common"] * 40 + [""] * 10
    splits = stratify.assign(members(sets), SHARES, 0)
    assert set(splits[:3]) == set(SHARES)


def test_two_rare_labels_both_reach_every_split() -> None:
    sets = ["x", "x;y", "x", "y", "y", *["z"] * 20]
    splits = stratify.assign(members(sets), SHARES, 0)
    for label in "xyz":
        assert {name for own, name in zip(sets, splits, strict=True) if label in own} == set(SHARES)


def test_groups_stay_together() -> None:
    images = members(sorted(correlated(300)), group_size=5)
    splits = stratify.assign(images, SHARES, 3)
    assert len({(image.group, name) for image, name in zip(images, splits, strict=True)}) == 60
    assert splits.count("test") == pytest.approx(45, abs=8)


def test_the_seed_decides_and_neither_order_nor_group_numbers_do() -> None:
    images = members(correlated(120))
    first = dict(zip((image.key for image in images), stratify.assign(images, SHARES, 5), strict=True))
    turned = [image._replace(group=1000 - image.group) for image in reversed(images)]
    again = dict(zip((image.key for image in turned), stratify.assign(turned, SHARES, 5), strict=True))
    other = dict(zip((image.key for image in images), stratify.assign(images, SHARES, 6), strict=True))
    assert first == again
    assert first != other
