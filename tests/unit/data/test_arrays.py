from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from transferline import policy
from transferline.artifacts import ManifestRow, read_arrays, read_table, sha256
from transferline.data import arrays, pictures
from transferline.errors import UserError

POLICY = TypeAdapter(tuple[policy.Transform, ...]).validate_python(
    ({"name": "rotation"}, {"name": "contrast"}, {"name": "gaussian_noise"})
)
RECIPE = arrays.Recipe(size=32, fit="squash", views=2, policy=POLICY, seed=1)
ONLINE = arrays.Recipe(size=32, fit="squash", views=2, policy=POLICY, seed=1, online=True)
GREY = np.full((32, 32, 3), 128, dtype=np.uint8)


@pytest.fixture
def rows(tmp_path: Path) -> list[ManifestRow]:
    made = []
    for index in range(8):
        label, split = "ba"[index % 2], ["train", "train", "val", "test"][index // 2]
        path = tmp_path / "in" / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(ManifestRow(f"{label}/{index}.png", label, split, sha256(path), "0" * 16, index, 50, 40))
    return sorted(made)


def write(rows: list[ManifestRow], tmp_path: Path, name: str, recipe: arrays.Recipe = RECIPE, workers: int = 0) -> Path:
    arrays.write(rows, tmp_path / "in", recipe, workers, tmp_path / name)
    return tmp_path / name


def test_the_contract_of_the_arrays(rows, tmp_path):
    folder = write(rows, tmp_path, "out")
    train, test = read_arrays("train", folder), read_arrays("test", folder)
    assert train.images.shape == (4, 3, 32, 32, 3)
    assert test.images.shape == (2, 1, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.classes == ["a", "b"]
    assert train.paths == ["a/1.png", "a/3.png", "b/0.png", "b/2.png"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    index = read_table(folder / "train" / "index.parquet")
    assert list(index) == ["row", "path", "label", "group"]
    assert index["row"] == [0, 1, 2, 3]
    assert index["group"] == [1, 3, 0, 2]


def test_no_two_views_are_alike(rows, tmp_path):
    images = read_arrays("train", write(rows, tmp_path, "out")).images
    assert len({view.tobytes() for image in images for view in image}) == 12


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(rows, tmp_path):
    digests = {workers: sha256(write(rows, tmp_path, f"out{workers}", workers=workers)) for workers in (0, 1, 2)}
    assert len(set(digests.values())) == 1
    other = arrays.Recipe(size=32, fit="squash", views=2, policy=POLICY, seed=2)
    assert sha256(write(rows, tmp_path, "other", other)) != digests[0]


def test_views_do_not_depend_on_the_other_images(rows, tmp_path):
    all_of_them = read_arrays("train", write(rows, tmp_path, "all"))
    fewer = read_arrays("train", write(rows[1:], tmp_path, "fewer"))
    np.testing.assert_array_equal(all_of_them.images[1:], fewer.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_changed_or_vanished_since_prepare_is_named(rows, tmp_path, workers):
    file = tmp_path / "in" / rows[3].path
    Image.new("RGB", (50, 40)).save(file)
    with pytest.raises(UserError, match=f"{rows[3].path} has changed since prepare"):
        write(rows, tmp_path, "out", workers=workers)
    file.unlink()
    with pytest.raises(UserError, match=f"{rows[3].path} has changed since prepare: unreadable: No such file"):
        write(rows, tmp_path, "out", workers=workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_older_arrays_stay_until_the_new_ones_are_whole(rows, tmp_path):
    folder = write(rows, tmp_path, "out")
    before = sha256(folder)
    broken = [row._replace(sha256="0" * 64) for row in rows]
    with pytest.raises(UserError):
        write(broken, tmp_path, "out")
    assert sha256(folder) == before
    (folder / "left_over").touch()
    assert sha256(write(rows, tmp_path, "out")) == before


def test_a_full_disk_is_noticed_beforehand(rows, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: usage(16 * 32 * 32 * 3 - 1))
    with pytest.raises(UserError, match=r"need 0\.0 GB.*\n.*augment\.views"):
        write(rows, tmp_path, "out")
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: usage(16 * 32 * 32 * 3))
    write(rows, tmp_path, "out")


def test_the_preview_is_drawn_from_train_the_same_twice(rows, tmp_path):
    train = read_arrays("train", write(rows, tmp_path, "out"))
    for name in ("one.png", "two.png"):
        pictures.preview(train, tmp_path / name, "rotation")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert min(picture.size) > 300


def test_views_drawn_while_training_are_not_stored_but_their_transforms_are(rows, tmp_path):
    off = TypeAdapter(policy.Transform).validate_python({"name": "blur", "enabled": False})
    recipe = arrays.Recipe(size=32, fit="squash", views=2, policy=(off, *POLICY), seed=1, online=True)
    folder = write(rows, tmp_path, "out", recipe)
    train = read_arrays("train", folder)
    assert train.images.shape == (4, 1, 32, 32, 3)
    assert (folder / "train" / "online.json").is_file()
    assert train.online == POLICY
    assert read_arrays("val", folder).online == read_arrays("test", folder).online == ()
    stored = read_arrays("train", write(rows, tmp_path, "stored"))
    np.testing.assert_array_equal(train.images[:, 0], stored.images[:, 0])


def test_without_online_nothing_is_drawn_while_training(rows, tmp_path):
    folder = write(rows, tmp_path, "out")
    assert not (folder / "train" / "online.json").exists()
    assert read_arrays("train", folder).online == ()
    assert arrays.examples(GREY, read_arrays("train", folder), 3, seed=1) == []


@pytest.mark.parametrize(
    "text", ['[{"name": "rotation"', '[{"name": "rotatoin"}]', '[{"name": "rotation", "p": 2.0}]', '{"name": "blur"}']
)
def test_a_garbled_record_of_the_transforms_is_named(rows, tmp_path, text):
    folder = write(rows, tmp_path, "out", ONLINE)
    (folder / "train" / "online.json").write_text(text)
    with pytest.raises(UserError, match=r"train.online\.json cannot be read"):
        read_arrays("train", folder)


def test_examples_are_drawn_from_a_stored_image_and_repeat_themselves(rows, tmp_path):
    train = read_arrays("train", write(rows, tmp_path, "out", ONLINE))
    image = train.images[0, 0]
    first, again, other = (arrays.examples(image, train, 3, seed) for seed in (1, 1, 2))
    assert [view.shape for view in first] == [(32, 32, 3)] * 3
    assert len({view.tobytes() for view in (image, *first, *other)}) == 7
    np.testing.assert_array_equal(first, again)


def test_label_sets_are_stored_as_flags_and_come_back_as_names(rows, tmp_path):
    sets = ["a;b", "", "b", "a", "a;b", "b", "", "a"]
    given = [row._replace(label=label) for row, label in zip(rows, sets, strict=True)]
    folder = write(given, tmp_path, "out", replace(RECIPE, multilabel=True))
    for split in ("train", "val", "test"):
        stored, part = read_arrays(split, folder), [row for row in given if row.split == split]
        assert stored.multilabel
        assert (stored.labels.dtype, stored.labels.shape) == (np.int64, (len(part), 2))
        assert stored.classes == ["a", "b"]
        assert [";".join(stored.names(index)) for index in range(len(part))] == [row.label for row in part]
        assert stored.counts.tolist() == [sum(name in row.label for row in part) for name in "ab"]
    pictures.preview(read_arrays("train", folder), tmp_path / "preview.png")
    assert (tmp_path / "preview.png").stat().st_size > 0


def test_a_class_with_a_semicolon_stays_one_class_in_folders(rows, tmp_path):
    given = [row._replace(label=f"{row.label};x") for row in rows]
    stored = read_arrays("train", write(given, tmp_path, "out"))
    assert (stored.multilabel, stored.classes) == (False, ["a;x", "b;x"])
    assert stored.counts.tolist() == [2, 2]
