"""The proof that the exported file does what evaluate reported, image by image, without torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.progress import track

from transferline.artifacts import ManifestRow, Predictions
from transferline.data import images
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.labelsets import join, names_of
from transferline.sections import Export

Probabilities = npt.NDArray[np.float32]
Thresholds = npt.NDArray[np.float64]
_BATCH_PIXELS = 32_000_000  # resizing them takes some 15 bytes a pixel: 480 MB for this many
_DIGITS = 9  # below float32's resolution of a probability
_SHOWN = 5
_NONE = "(no label)"


@dataclass(frozen=True)
class Difference:
    """An image on which the exported model and evaluate disagree."""

    path: str
    evaluate_class: str  # in multi-label data, the joined set
    evaluate_probability: float  # of evaluate's class; of the label most in doubt
    onnx_class: str
    onnx_probability: float  # of the exported model's class; of the label most in doubt
    difference: float  # the largest over the classes


@dataclass(frozen=True)
class Parity:
    """The verdict on one exported model; differences are the largest over images and classes."""

    passed: bool
    images: int
    max_difference: float
    max_difference_batch_1: float
    max_difference_batch_n: float
    tolerance: float
    mismatches: list[Difference]  # worst first
    ties: list[Difference]  # top-1 differs, but evaluate saw both classes as good as equal

    def require(self) -> None:
        """Raises UserError, with the worst images, where the models disagree."""
        if self.passed:
            return
        worst = "".join(
            f"\n    {entry.path}: evaluate {entry.evaluate_class or _NONE} {entry.evaluate_probability:.4f}, "
            f"onnx {entry.onnx_class or _NONE} {entry.onnx_probability:.4f}, difference {entry.difference:.2g}"
            for entry in self.mismatches[:_SHOWN]
        )
        raise UserError(
            f"the ONNX model disagrees with evaluate on {len(self.mismatches)} of {self.images} test images:{worst}",
            "no model was kept; all of them are in reports/export/parity.json. If evaluate is out of date, "
            "run 'dvc repro'; if the differences are rounding, raise export.tolerance",
        )


@dataclass(frozen=True)
class Reference:
    """What an exported model is held against.

    Attributes:
        root: the folder that the manifest's paths are relative to.
        rows: the manifest, of which only the test split is read.
        predictions: of evaluate, on the same images.
        options: batch size, tolerance and tie.
    """

    root: Path
    rows: Sequence[ManifestRow]
    predictions: Predictions
    options: Export

    @property
    def test_rows(self) -> list[ManifestRow]:
        return [row for row in self.rows if row.split == "test"]


def verify(model: Path, reference: Reference) -> Parity:
    """Replay the test split from the original files, at batch 1 and batch N, and compare with evaluate.

    Raises:
        UserError: where the predictions are not of this test split or of these classes, or an image changed.
    """
    predictor, predictions, test = Predictor(model), reference.predictions, reference.test_rows
    if not test or sorted(predictions.paths) != sorted(row.path for row in test):
        raise UserError("evaluate's predictions are not of the manifest's test split", "run 'dvc repro'")
    if predictions.classes != predictor.classes:
        raise UserError("evaluate's predictions are not of the model's classes", "run 'dvc repro'")
    replayed = replay(predictor, reference.root, test, reference.options.batch_size)
    probabilities = np.stack([replayed[path] for path in predictions.paths], axis=1)
    return compare(probabilities, predictions, reference.options, predictor.thresholds)


def replay(predictor: Predictor, root: Path, rows: Sequence[ManifestRow], batch_size: int) -> dict[str, Probabilities]:
    """Probabilities float32 [2, C] of each path: computed alone, and in a batch of images of its size.

    An image that has no companion of its size is batched with itself.
    """
    replayed: dict[str, Probabilities] = {}
    planned = list(batches(rows, batch_size))
    for batch in track(planned, description="replaying the test split"):
        pixels = np.stack([decode(root, row) for row in batch])
        together = predictor.predict(pixels if len(batch) > 1 else pixels.repeat(2, axis=0))
        for index, row in enumerate(batch):
            replayed[row.path] = np.stack([predictor.predict(pixels[index : index + 1])[0], together[index]])
    return replayed


def batches(rows: Sequence[ManifestRow], batch_size: int) -> Iterator[list[ManifestRow]]:
    """Lists of at most `batch_size` images of one size, fewer where they are so large that memory would suffer."""
    ordered = sorted(rows, key=lambda row: (row.height, row.width, row.path))
    for (height, width), group in groupby(ordered, key=lambda row: (row.height, row.width)):
        same = list(group)
        size = max(1, min(batch_size, _BATCH_PIXELS // (height * width)))
        yield from (same[start : start + size] for start in range(0, len(same), size))


def decode(root: Path, row: ManifestRow) -> npt.NDArray[np.uint8]:
    """The pixels uint8 [H, W, 3] of a manifest's image. Raises UserError where it is not the one prepare saw."""
    try:
        pixels = images.decode(root / row.path)
    except images.ImageError as error:
        raise UserError(f"{root / row.path}: {error}; prepare had accepted it", "run 'dvc repro'") from None
    if pixels.shape != (row.height, row.width, 3):
        raise UserError(f"{root / row.path} has changed since prepare", "run 'dvc repro'")
    return pixels


def compare(
    replayed: Probabilities, predictions: Predictions, options: Export, thresholds: Thresholds | None = None
) -> Parity:
    """Hold probabilities float32 [2, N, C] of the exported model against evaluate's.

    An image agrees where, alone and in a batch, no probability is off by more than the tolerance and
    the class is evaluate's; another class is a tie where evaluate gave it the same probability but for
    `tie`. With `thresholds` float64 [C], the set of labels must be evaluate's; another set is a tie where
    evaluate's probability of each label that differs lies within `tie` of its threshold.
    """
    replayed = np.nan_to_num(replayed, nan=-1.0)  # further off than any probability, where NaN would pass for equal
    every = np.arange(len(predictions.paths))
    judge = _one_class(predictions, replayed) if thresholds is None else _label_sets(predictions, replayed, thresholds)
    difference = np.abs(replayed - predictions.probabilities).max(axis=2)
    bad = (difference > options.tolerance) | (judge.other & (judge.gap > options.tie))
    worse = (difference + judge.other + bad).argmax(axis=0)  # of batch 1 and N, the one to show
    entries = {
        i: judge.describe(int(worse[i]), int(i), _rounded(difference[:, i].max()))
        for i in sorted(every, key=lambda i: (-difference[:, i].max(), predictions.paths[i]))
    }
    return Parity(
        passed=not bad.any(),
        images=len(every),
        max_difference=_rounded(difference.max()),
        max_difference_batch_1=_rounded(difference[0].max()),
        max_difference_batch_n=_rounded(difference[1].max()),
        tolerance=options.tolerance,
        mismatches=[entry for i, entry in entries.items() if bad[:, i].any()],
        ties=[entry for i, entry in entries.items() if judge.other[:, i].any() and not bad[:, i].any()],
    )


class _Judge(NamedTuple):
    """What the two models answer; both arrays are [2, N]."""

    other: npt.NDArray[np.bool_]  # the answers differ
    gap: npt.NDArray[np.floating]  # how far evaluate was from the other answer
    describe: Callable[[int, int, float], Difference]  # of a batch size, an image and the largest difference


def _one_class(predictions: Predictions, replayed: Probabilities) -> _Judge:
    every, stated = np.arange(len(predictions.paths)), predictions.probabilities
    expected = np.array([predictions.classes.index(name) for name in predictions.predicted])
    found = replayed.argmax(axis=2)

    def describe(batch: int, image: int, difference: float) -> Difference:
        wanted, given = expected[image], found[batch, image]
        return Difference(
            path=predictions.paths[image],
            evaluate_class=predictions.classes[wanted],
            evaluate_probability=_rounded(stated[image, wanted]),
            onnx_class=predictions.classes[given],
            onnx_probability=_rounded(replayed[batch, image, given]),
            difference=difference,
        )

    return _Judge(found != expected, stated[every, expected] - stated[every, found], describe)


def _label_sets(predictions: Predictions, replayed: Probabilities, thresholds: Thresholds) -> _Judge:
    """The probabilities described are those of the label that is most in doubt: first of those that differ."""
    stated, classes = predictions.probabilities, predictions.classes
    sets = [set(names_of(text, multilabel=True)) for text in predictions.predicted]
    expected = np.array([[name in given for name in classes] for given in sets])
    found = replayed >= thresholds
    other = found != expected
    gap = np.where(other, np.abs(stated - thresholds), 0.0).max(axis=2)

    def describe(batch: int, image: int, difference: float) -> Difference:
        worst = int((np.abs(replayed[batch, image] - stated[image]) + other[batch, image]).argmax())
        given = join(classes[index] for index in np.flatnonzero(found[batch, image]))
        return Difference(
            path=predictions.paths[image],
            evaluate_class=predictions.predicted[image],
            evaluate_probability=_rounded(stated[image, worst]),
            onnx_class=given,
            onnx_probability=_rounded(replayed[batch, image, worst]),
            difference=difference,
        )

    return _Judge(other.any(axis=2), gap, describe)


def _rounded(value: np.floating) -> float:
    return round(float(value), _DIGITS)
