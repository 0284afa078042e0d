from collections import Counter

import pytest

from transferline.data import split
from transferline.data.split import Member
from transferline.errors import UserError

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def members(counts: dict[str, int], group_size: int = 1) -> list[Member]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [Member(label, index // group_size, f"{label}{index}") for index, label in enumerate(labels)]


def test_single_images_meet_the_shares_in_every_class():
    images = members({"a": 100, "b": 1000})
    counts = Counter(zip((image.label for image in images), split.assign(images, SHARES, 1), strict=True))
    assert [counts["a", name] for name in SHARES] == [70, 15, 15]
    assert [counts["b", name] for name in SHARES] == [700, 150, 150]


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_a_small_class_reaches_every_split(count):
    assert set(split.assign(members({"a": count, "b": 50}), SHARES, 0)[:count]) == set(SHARES)


def test_groups_stay_together_and_shares_hold_roughly():
    images = members({"a": 120, "b": 240}, group_size=6)
    splits = split.assign(images, SHARES, 3)
    assert len({(image.group, name) for image, name in zip(images, splits, strict=True)}) == 60
    assert Counter(splits)["train"] == pytest.approx(252, abs=12)
    assert Counter(splits)["test"] == pytest.approx(54, abs=12)


def test_a_huge_group_goes_into_train_and_the_rest_still_fill_the_others():
    images = [Member("a", 0, str(i)) for i in range(50)] + [Member("a", 1, "x"), Member("a", 2, "y")]
    splits = split.assign(images, SHARES, 0)
    assert set(splits[:50]) == {"train"}
    assert set(splits[50:]) == {"val", "test"}


def test_a_group_with_two_classes_is_placed_once():
    images = [*members({"a": 20, "b": 20}), Member("a", 99, "p"), Member("b", 99, "q")]
    splits = split.assign(images, SHARES, 0)
    assert splits[-1] == splits[-2]


def test_the_seed_decides_and_neither_order_nor_group_numbers_do():
    images = members({"a": 60, "b": 60})
    first = dict(zip((image.key for image in images), split.assign(images, SHARES, 5), strict=True))
    turned = [image._replace(group=1000 - image.group) for image in reversed(images)]
    again = dict(zip((image.key for image in turned), split.assign(turned, SHARES, 5), strict=True))
    other = dict(zip((image.key for image in images), split.assign(images, SHARES, 6), strict=True))
    assert first == again
    assert first != other


def test_a_split_without_a_class_is_refused():
    split.require_every_class([["a"]] * 3, ["train", "val", "test"], [0, 1, 2])
    with pytest.raises(UserError, match="class 'a' has no image in test: it has 3 usable images, in 2 groups"):
        split.require_every_class([["a"]] * 3, ["train", "train", "val"], [0, 0, 1])


def test_every_label_of_an_image_counts_for_its_split():
    sets = [["a", "b"], ["a"], ["b"], []]
    with pytest.raises(UserError, match="class 'a' has no image in test: it has 2 usable images, in 2 groups"):
        split.require_every_class(sets, ["train", "val", "test", "test"], [0, 1, 2, 3])
