"""What the network made of the test split: what the metrics, the pictures and the report are about."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferline.artifacts import Predictions

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """The test split, predicted.

    Attributes:
        labels: int64 [N], indices into `classes`.
        uncalibrated: float64 [N, C], plain softmax.
        probabilities: float64 [N, C], softmax after temperature scaling: what is deployed.
        temperature: what the logits were divided by.
        classes: C class names.
    """

    labels: Labels
    uncalibrated: Floats
    probabilities: Floats
    temperature: float
    classes: list[str]

    @property
    def predicted(self) -> Labels:
        """int64 [N], the most probable class."""
        winners: Labels = self.probabilities.argmax(axis=1)
        return winners

    @property
    def confidences(self) -> Floats:
        """float64 [N], the probability of the predicted class."""
        highest: Floats = self.probabilities.max(axis=1)
        return highest

    @property
    def mistakes(self) -> Labels:
        """int64, rows of the wrong predictions, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")]

    def to_predictions(self, paths: list[str]) -> Predictions:
        """As the later stages read it; `paths` are the N paths of the manifest."""
        return Predictions(
            paths=paths,
            labels=[self.classes[index] for index in self.labels],
            predicted=[self.classes[index] for index in self.predicted],
            probabilities=self.probabilities.astype(np.float32),
            classes=self.classes,
        )


class Curve(NamedTuple):
    """Precision over recall of one class against the rest, float64 [P] each, from high recall to low."""

    name: str
    precision: Floats
    recall: Floats
    average_precision: float
