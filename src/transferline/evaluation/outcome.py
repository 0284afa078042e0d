"""What the network made of the test split: what the metrics, the pictures and the report are about."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from transferline import labelsets
from transferline.artifacts import Predictions

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

DIGITS = 10  # of what is written; beyond them lies rounding that differs between machines


class Cells(NamedTuple):
    """The K pairs of truth and prediction that occur: all that figures without probabilities depend on."""

    counts: Labels  # int64 [K], images
    actual: Flags  # bool [K, C], the classes the images are in
    predicted: Flags  # bool [K, C]


class Mark(NamedTuple):
    """The threshold of a class, and where on its curve that lies."""

    threshold: float
    recall: float
    precision: float


class Curve(NamedTuple):
    """Precision over recall of one class against the rest, float64 [P] each, from high recall to low."""

    name: str
    precision: Floats
    recall: Floats
    average_precision: float
    mark: Mark | None = None  # where the class has a threshold of its own


@dataclass(frozen=True)
class Outcome(ABC):
    """The test split, predicted.

    Attributes:
        labels: int64 as in Arrays.
        uncalibrated: float64 [N, C], probabilities at temperature 1.
        probabilities: float64 [N, C], after temperature scaling: what is deployed.
        temperature: what the logits were divided by.
        classes: C class names.
    """

    multilabel: ClassVar[bool]

    labels: Labels
    uncalibrated: Floats
    probabilities: Floats
    temperature: float
    classes: list[str]

    @property
    @abstractmethod
    def predicted(self) -> Labels:
        """The classes predicted, int64 of the shape of `labels`."""

    @property
    @abstractmethod
    def members(self) -> Flags:
        """bool [N, C], whether the image is in the class."""

    @property
    @abstractmethod
    def calls(self) -> Flags:
        """bool [N, C], whether the image is predicted to be in the class."""

    @property
    @abstractmethod
    def confidences(self) -> Floats:
        """float64 [N], how sure the prediction is; of a wrong one, how sure of what is wrong."""

    @abstractmethod
    def decisions(self, probabilities: Floats) -> tuple[Floats, Flags]:
        """What calibration is about: stated probabilities [D] of `probabilities` [N, C], and what came true [D]."""

    @abstractmethod
    def cells(self) -> Cells:
        """In an order that the outcome alone decides."""

    @abstractmethod
    def confusion_rows(self) -> Iterator[tuple[str, str]]:
        """Pairs of actual and predicted that `dvc plots show` counts into a matrix."""

    @property
    def mistakes(self) -> Labels:
        """int64, rows of the wrong predictions, the most confident first."""
        wrong = np.flatnonzero((self.members != self.calls).any(axis=1))
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")]

    def names(self, flags: Flags) -> list[str]:
        """The classes of one row of `members` or `calls`."""
        return [self.classes[index] for index in np.flatnonzero(flags)]

    def to_predictions(self, paths: list[str]) -> Predictions:
        """As the later stages read it; `paths` are the N paths of the manifest."""
        return Predictions(
            paths=paths,
            labels=[labelsets.join(self.names(row)) for row in self.members],
            predicted=[labelsets.join(self.names(row)) for row in self.calls],
            probabilities=self.probabilities.astype(np.float32),
            classes=self.classes,
        )
