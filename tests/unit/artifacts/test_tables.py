"""The manifest, the arrays, the logits and the predictions come back as they were; broken ones are named."""

from pathlib import Path

import numpy as np
import pytest

from transferline import artifacts
from transferline.artifacts import Arrays, ManifestRow, Predictions
from transferline.errors import UserError

ROWS = [
    ManifestRow("nominal/a b.jpg", "nominal", "train", "0" * 64, "00ff00ff00ff00ff", 0, 250, 200),
    ManifestRow("défaut/ü.png", "défaut", "test", "1" * 64, "ffffffffffffffff", 1, 32, 33),
]
ODD_CLASSES = ["path", "label", "predicted", "p:", "p:path", "été 'n' \"q\", ; /", " "]


def test_manifest_comes_back(tmp_path: Path) -> None:
    artifacts.write_manifest(ROWS, tmp_path / "manifest.parquet")
    assert artifacts.read_manifest(tmp_path / "manifest.parquet") == ROWS


def test_an_empty_manifest_comes_back(tmp_path: Path) -> None:
    artifacts.write_manifest([], tmp_path / "manifest.parquet")
    assert artifacts.read_manifest(tmp_path / "manifest.parquet") == []


def test_a_manifest_without_a_column_is_named(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "manifest.parquet", {"path": ["a"], "label": ["b"]})
    with pytest.raises(UserError, match=r"manifest\.parquet lacks the column 'split'"):
        artifacts.read_manifest(tmp_path / "manifest.parquet")


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Root of arrays with a train split of two images in three views."""
    (tmp_path / "train").mkdir()
    images = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    np.save(tmp_path / "train" / "images.npy", images)
    np.save(tmp_path / "train" / "labels.npy", np.array([1, 0], np.int64))
    artifacts.write_table(tmp_path / "train" / "index.parquet", {"path": ["b/1.jpg", "a/1.jpg"]})
    artifacts.write_json(tmp_path / "classes.json", ["a", "b"])
    return tmp_path


def test_arrays_are_read(arrays: Path) -> None:
    train = artifacts.read_arrays("train", arrays)
    assert (train.images.shape, train.images.dtype) == ((2, 3, 4, 4, 3), np.uint8)
    assert (train.labels.tolist(), train.labels.dtype) == ([1, 0], np.int64)
    assert (train.paths, train.classes) == (["b/1.jpg", "a/1.jpg"], ["a", "b"])


def test_arrays_know_their_groups_where_the_index_does(arrays: Path) -> None:
    assert artifacts.read_arrays("train", arrays).groups is None
    artifacts.write_table(arrays / "train" / "index.parquet", {"path": ["b/1.jpg", "a/1.jpg"], "group": [7, 3]})
    groups = artifacts.read_arrays("train", arrays).groups
    assert groups is not None
    assert (groups.tolist(), groups.dtype) == ([7, 3], np.int64)


def test_images_stay_on_disk_and_cannot_be_changed(arrays: Path) -> None:
    images = artifacts.read_arrays("train", arrays).images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_split_that_is_not_there_is_named(arrays: Path) -> None:
    with pytest.raises(UserError, match=r"val/images\.npy is missing"):
        artifacts.read_arrays("val", arrays)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.parquet"])
@pytest.mark.parametrize("length", [0, 20, -1])
def test_a_file_cut_short_is_named(arrays: Path, name: str, length: int) -> None:
    path = arrays / "train" / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"train/{name} cannot be read"):
        artifacts.read_arrays("train", arrays)


def test_parts_of_different_lengths_are_refused(arrays: Path) -> None:
    np.save(arrays / "train" / "labels.npy", np.array([1], np.int64))
    with pytest.raises(UserError, match="images, labels and index differ in length"):
        artifacts.read_arrays("train", arrays)


VAL = Arrays(np.zeros((4, 1, 2, 2, 3), np.uint8), np.array([0, 1, 2, 0]), ["a", "b", "c", "d"], ["x", "y", "z"])


def test_held_out_logits_come_back(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    artifacts.write_held_out(logits, tmp_path / "held_out.npy")
    found = artifacts.read_held_out(VAL, tmp_path / "held_out.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, logits)


@pytest.mark.parametrize(
    "logits", [np.zeros((3, 3), np.float32), np.zeros((4, 2), np.float32), np.zeros((4, 3)), np.zeros(4, np.float32)]
)
def test_held_out_logits_of_other_images_or_classes_are_refused(tmp_path: Path, logits: np.ndarray) -> None:
    artifacts.write_held_out(logits, tmp_path / "held_out.npy")
    with pytest.raises(UserError, match=r"held_out\.npy .*should have float32 of \(4, 3\)"):
        artifacts.read_held_out(VAL, tmp_path / "held_out.npy")


def test_predictions_come_back_whatever_the_classes_are_called(tmp_path: Path) -> None:
    count = len(ODD_CLASSES)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count), size=count).astype(np.float32)
    written = Predictions(
        [f"{index}.jpg" for index in range(count)], ODD_CLASSES, ODD_CLASSES, probabilities, ODD_CLASSES
    )
    artifacts.write_predictions(written, tmp_path / "predictions.parquet")
    read = artifacts.read_predictions(tmp_path / "predictions.parquet")
    assert (read.paths, read.labels, read.predicted) == (written.paths, written.labels, written.predicted)
    assert read.classes == ODD_CLASSES
    assert read.probabilities.dtype == np.float32
    np.testing.assert_array_equal(read.probabilities, probabilities)


def test_predictions_without_a_column_are_named(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "predictions.parquet", {"path": ["a"], "label": ["b"], "p:b": [1.0]})
    with pytest.raises(UserError, match=r"predictions\.parquet lacks the column 'predicted'"):
        artifacts.read_predictions(tmp_path / "predictions.parquet")
