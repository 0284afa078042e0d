"""The proof that the exported file does what evaluate reported, image by image, without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from transferline.artifacts import ManifestRow, Predictions
from transferline.data import images
from transferline.deploy.agreement import Parity, Probabilities, compare
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.sections import REFERENCE, Export

_BATCH_PIXELS = 32_000_000  # of a batch's originals, which are held at once: 96 MB


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
    variant = predictor.metadata.get("variant", REFERENCE)
    return compare(probabilities, predictions, reference.options, predictor.thresholds, variant)


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
