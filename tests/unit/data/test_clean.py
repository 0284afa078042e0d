"""The training images alone, at any size: which are taken, that they are decoded once, and never another split's."""

from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transferline.artifacts import ManifestRow
from transferline.data import clean
from transferline.data.images import decode
from transferline.data.preprocess import Resize
from transferline.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def rows(root: Path) -> list[ManifestRow]:
    """Forty images of two classes, three in ten in val; their files alone exist where they are of train."""
    rng, made = np.random.default_rng(0), []
    for number in range(40):
        split, label = ("val" if number % 10 > 6 else "train"), ("few" if number % 4 == 0 else "many")
        path = root / f"{number:02d}.png"
        if split == "train":
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        digest = sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        made.append(ManifestRow(path.name, label, split, digest, "", number, 24, 20))
    return made


def test_all_of_train_is_taken_where_it_is_few(rows: list[ManifestRow]) -> None:
    assert clean.sample(rows, 28, seed=1) == [row for row in rows if row.split == "train"]


def test_a_sample_has_the_same_share_of_every_class(rows: list[ManifestRow]) -> None:
    taken = clean.sample(rows, 14, seed=1)
    whole = Counter(row.label for row in rows if row.split == "train")
    assert Counter(row.label for row in taken) == {label: count / 2 for label, count in whole.items()}
    assert {row.split for row in taken} == {"train"}
    assert taken == sorted(taken, key=lambda row: row.path)
    assert taken == clean.sample(rows, 14, seed=1) != clean.sample(rows, 14, seed=2)


def test_images_are_those_that_the_line_would_store(root: Path, rows: list[ManifestRow], tmp_path: Path) -> None:
    train = clean.sample(rows, 100, seed=1)
    arrays, _ = clean.decoded(train, root, 16, "pad", tmp_path)
    assert arrays.images.shape == (28, 1, 16, 16, 3)
    pixels = torch.from_numpy(decode(root / train[5].path))[None]
    expected = Resize(16, "pad")(pixels)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    np.testing.assert_array_equal(arrays.images[5, 0], expected)
    assert arrays.classes == ["few", "many"]
    assert [arrays.classes[label] for label in arrays.labels] == [row.label for row in train]


def test_they_are_decoded_once_a_size_and_make_room_for_those_of_other_rows(
    root: Path, rows: list[ManifestRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, written = clean.sample(rows, 100, seed=1), []
    write = clean.write_split
    monkeypatch.setattr(clean, "write_split", lambda *given: written.append(1) or write(*given))
    first, digest = clean.decoded(train, root, 16, "squash", tmp_path)
    again, same = clean.decoded(train, root, 16, "squash", tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert (same, len(written)) == (digest, 1)
    clean.decoded(train, root, 8, "squash", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    _, other = clean.decoded(train[1:], root, 16, "squash", tmp_path)
    assert other != digest
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["16", "8"]


def test_what_has_changed_since_prepare_is_refused(root: Path, rows: list[ManifestRow], tmp_path: Path) -> None:
    changed = [row._replace(sha256="0" * 64) for row in clean.sample(rows, 100, seed=1)]
    with pytest.raises(UserError, match="has changed since prepare"):
        clean.decoded(changed, root, 16, "squash", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_other_split_is_ever_decoded(root: Path, rows: list[ManifestRow], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must not see other splits"):
        clean.decoded(rows, root, 16, "squash", tmp_path)


def test_what_does_not_fit_the_disk_is_refused(
    root: Path, rows: list[ManifestRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = clean.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(clean.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GB are free.*\n.*lower compare.max_images"):
        clean.decoded(clean.sample(rows, 100, seed=1), root, 16, "squash", tmp_path)
