from transferline.data import duplicates
from transferline.data.inspection import Inspection


def image(path: str, pixels: str = "", phash: int = 0, label: str = "a") -> Inspection:
    return Inspection(path, label, None, "0" * 64, pixels or path, f"{phash:016x}", 40, 40)


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


def test_a_twin_is_the_nearest_of_train_and_none_where_only_a_chain_leads_there():
    images = [
        image("test/1", phash=0b11),
        image("test/2", phash=0b1111_1111),
        image("test/3", "same", phash=0b1),
        image("test/4", phash=1 << 60),
        image("train/1", phash=0b111),
        image("train/2", phash=0b1),
        image("train/3", "same", phash=0b1),
        image("val/1", phash=0b111),
    ]
    splits = ["test"] * 4 + ["train"] * 3 + ["val"]
    groups = [0, 0, 0, 1, 0, 0, 0, 0]
    assert duplicates.twins(images, groups, splits, 4, "test") == [
        ("test/1", "train/1", 1),
        ("test/3", "train/3", 0),
    ]
    assert duplicates.twins(images, groups, splits, 5, "test")[1] == ("test/2", "train/1", 5)
    assert duplicates.twins(images, groups, splits, 4, "val") == [("val/1", "train/1", 0)]
