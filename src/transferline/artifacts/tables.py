"""What passes between stages as tables and arrays: the manifest, the decoded images, logits, the predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Strict, TypeAdapter

from transferline.artifacts.files import again, read_json, read_table, readable, write_json, write_table
from transferline.artifacts.npy import read_array, write_array
from transferline.artifacts.paths import ARRAYS, HELD_OUT, MANIFEST, PREDICTIONS, SplitName
from transferline.errors import UserError
from transferline.policy import Transform

ONLINE = "online.json"
_POLICY: TypeAdapter[tuple[Transform, ...]] = TypeAdapter(Annotated[tuple[Transform, ...], Strict(False)])


class ManifestRow(NamedTuple):
    """One usable image. `path` is relative to data.root, with forward slashes."""

    path: str
    label: str  # a class; in multi-label data, names joined by labelsets.join
    split: SplitName
    sha256: str
    phash: str  # 16 hex digits
    group: int  # images of one group are (near) duplicates and share a split
    width: int  # in pixels, after EXIF orientation
    height: int


def write_manifest(rows: Sequence[ManifestRow], path: Path = MANIFEST) -> None:
    write_table(path, {name: [getattr(row, name) for row in rows] for name in ManifestRow._fields})


def read_manifest(path: Path = MANIFEST) -> list[ManifestRow]:
    """Raises UserError where the file is missing, broken, or lacks a column."""
    columns = read_table(path, ManifestRow._fields)
    return [ManifestRow(*values) for values in zip(*(columns[name] for name in ManifestRow._fields), strict=True)]


@dataclass(frozen=True)
class Arrays:
    """One split, decoded: view 0 is the clean image, further views (train only) are augmented.

    Attributes:
        images: uint8 [N, V, H, W, 3], memory-mapped read-only, RGB.
        labels: int64 [N], indices into `classes`; in multi-label data, int64 [N, C] of 0 and 1.
        paths: N paths as in the manifest.
        classes: the one order of class names.
        online: transforms to draw a view with, anew each time an image is trained on; empty where views are stored.
        groups: int64 [N], as in the manifest: images of one are (near) duplicates; None where they are not known.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    paths: list[str]
    classes: list[str]
    online: tuple[Transform, ...] = ()
    groups: npt.NDArray[np.int64] | None = None

    @property
    def views(self) -> int:
        """Stored views of all images together."""
        return len(self.images) * int(self.images.shape[1])

    @property
    def multilabel(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.labels.ndim == 2

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """int64 [C], images of each class."""
        counts: npt.NDArray[np.int64]
        counts = self.labels.sum(axis=0) if self.multilabel else np.bincount(self.labels, minlength=len(self.classes))
        return counts

    def names(self, row: int) -> list[str]:
        """The classes of one image."""
        if not self.multilabel:
            return [self.classes[self.labels[row]]]
        return [self.classes[index] for index in np.flatnonzero(self.labels[row])]


def read_arrays(split: SplitName, root: Path = ARRAYS) -> Arrays:
    """Raises UserError where a file is missing, broken, or the parts do not belong together."""
    folder = root / split
    images = read_array(folder / "images.npy", mapped=True)
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] != 3:
        raise _damaged(folder / "images.npy", f"it has {images.dtype} of shape {images.shape}")
    index = read_table(folder / "index.parquet", ["path"])
    paths, groups = index["path"], np.array(index["group"], dtype=np.int64) if "group" in index else None
    classes = _read_classes(root / "classes.json")
    labels = read_array(folder / "labels.npy")
    if labels.dtype != np.int64 or not _fits(labels, len(classes)):
        raise _damaged(folder / "labels.npy", f"its labels are not those of {len(classes)} classes")
    if not len(images) == len(labels) == len(paths):
        raise UserError(f"{folder}: images, labels and index differ in length", again(folder))
    return Arrays(images, labels, paths, classes, _read_online(folder / ONLINE), groups)


def _read_classes(path: Path) -> list[str]:
    classes = read_json(path)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _damaged(path, "it is no list of names")
    if len(set(classes)) != len(classes):
        raise _damaged(path, "it has a name twice")
    return classes


def _fits(labels: npt.NDArray[np.int64], classes: int) -> bool:
    """Whether they are indices [N] below `classes`, or flags [N, classes]."""
    if labels.ndim == 1:
        return bool(((labels >= 0) & (labels < classes)).all())
    return labels.ndim == 2 and labels.shape[1] == classes and bool(((labels == 0) | (labels == 1)).all())


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be read: {why}", again(path))


def write_online(transforms: Sequence[Transform], folder: Path) -> None:
    """Say beside the training arrays that their views are drawn while training."""
    write_json(folder / ONLINE, [transform.model_dump(mode="json") for transform in transforms])


def _read_online(path: Path) -> tuple[Transform, ...]:
    if not path.exists():
        return ()
    with readable(path):  # pydantic's ValidationError is a ValueError
        return _POLICY.validate_python(read_json(path))


def write_held_out(logits: npt.NDArray[np.float32], path: Path = HELD_OUT) -> None:
    """Write logits float32 [M, C] of the validation images by a model fitted on train alone."""
    write_array(path, logits)


def read_held_out(val: Arrays, path: Path = HELD_OUT) -> npt.NDArray[np.float32]:
    """Logits float32 [M, C] of the images of `val`, by the chosen model as it was fitted on train alone.

    Raises:
        UserError: where the file is missing or damaged, or is not of these images and classes.
    """
    logits = read_array(path)
    expected = len(val.labels), len(val.classes)
    if logits.dtype != np.float32 or logits.shape != expected:
        raise _damaged(path, f"it has {logits.dtype} of shape {logits.shape}, and should have float32 of {expected}")
    return logits


@dataclass(frozen=True)
class Predictions:
    """evaluate's verdict on the test split, after temperature scaling.

    Attributes:
        paths: N paths as in the manifest.
        labels: N class names, the truth; in multi-label data, joined sets of them.
        predicted: N class names, or joined sets.
        probabilities: float32 [N, C], columns in the order of `classes`.
        classes: C class names.
    """

    paths: list[str]
    labels: list[str]
    predicted: list[str]
    probabilities: npt.NDArray[np.float32]
    classes: list[str]


PROBABILITY = "p:"  # before a class name, so that a class called 'path' does no harm


def write_predictions(predictions: Predictions, path: Path = PREDICTIONS) -> None:
    columns: dict[str, Any] = {
        "path": predictions.paths,
        "label": predictions.labels,
        "predicted": predictions.predicted,
    }
    for index, name in enumerate(predictions.classes):
        columns[PROBABILITY + name] = predictions.probabilities[:, index]
    write_table(path, columns)


def read_predictions(path: Path = PREDICTIONS) -> Predictions:
    """Raises UserError where the file is missing or broken."""
    columns = read_table(path, ["path", "label", "predicted"])
    classes = [name.removeprefix(PROBABILITY) for name in columns if name.startswith(PROBABILITY)]
    probabilities = np.array([columns[PROBABILITY + name] for name in classes], dtype=np.float32).T
    return Predictions(columns["path"], columns["label"], columns["predicted"], probabilities, classes)
