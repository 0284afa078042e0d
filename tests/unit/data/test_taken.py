"""The clean images that the policy is audited on: which are taken, and that they are those that would be stored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline.artifacts import ManifestRow, read_arrays, sha256
from transferline.data import arrays, clean

RECIPE = arrays.Recipe(size=32, fit="squash", views=2, policy=(), seed=1)


@pytest.fixture
def rows(tmp_path: Path) -> list[ManifestRow]:
    made = []
    for index in range(16):
        path = tmp_path / "in" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        split = ("train", "train", "val", "test")[index // 4]
        made.append(ManifestRow(path.name, "aab"[index % 3], split, sha256(path), "0" * 16, index, 50, 40))
    return made


def test_the_images_taken_are_those_that_would_be_stored(rows: list[ManifestRow], tmp_path: Path) -> None:
    arrays.write(rows, tmp_path / "in", RECIPE, 0, tmp_path / "out")
    stored = read_arrays("val", tmp_path / "out")
    taken = clean.taken(rows, tmp_path / "in", RECIPE, 0, limit=100, splits=("val",))
    np.testing.assert_array_equal(taken.images, stored.images)
    np.testing.assert_array_equal(taken.labels, stored.labels)
    assert (taken.paths, taken.classes) == (stored.paths, stored.classes)
    np.testing.assert_array_equal(taken.groups, stored.groups)


def test_of_more_than_the_limit_some_of_every_class_are_taken(rows: list[ManifestRow], tmp_path: Path) -> None:
    taken = clean.taken(rows, tmp_path / "in", RECIPE, 0, limit=3, splits=("train",))
    assert taken.images.shape == (3, 1, 32, 32, 3)
    assert sorted(taken.labels.tolist()) == [0, 0, 1]
    again = clean.taken(rows, tmp_path / "in", RECIPE, 2, limit=3, splits=("train",))
    np.testing.assert_array_equal(taken.images, again.images)


def test_where_every_image_has_labels_of_its_own_the_limit_still_holds(rows: list[ManifestRow]) -> None:
    named = [row._replace(label=f"label {number}", split="train") for number, row in enumerate(rows)]
    assert len(clean.sample(named, 4, seed=0)) == 4
