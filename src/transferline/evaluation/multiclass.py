"""The test split where every image is in exactly one class."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transferline.evaluation.outcome import Cells, Flags, Floats, Labels, Outcome


@dataclass(frozen=True)
class Multiclass(Outcome):
    """`labels` are int64 [N], indices into `classes`; probabilities add up to 1."""

    multilabel: ClassVar[bool] = False

    @property
    def predicted(self) -> Labels:
        """int64 [N], the most probable class."""
        winners: Labels = self.probabilities.argmax(axis=1)
        return winners

    @property
    def members(self) -> Flags:
        return self._one_hot(self.labels)

    @property
    def calls(self) -> Flags:
        return self._one_hot(self.predicted)

    @property
    def confidences(self) -> Floats:
        """float64 [N], the probability of the predicted class."""
        highest: Floats = self.probabilities.max(axis=1)
        return highest

    def decisions(self, probabilities: Floats) -> tuple[Floats, Flags]:
        """One an image: the probability of its most probable class, and whether that is right."""
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == self.labels

    @property
    def confusion(self) -> Labels:
        """Counts int64 [C, C]: rows are the actual classes, columns the predicted ones."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def cells(self) -> Cells:
        """Those of the confusion matrix, row by row."""
        counts = self.confusion
        actual, predicted = np.nonzero(counts)
        return Cells(counts[actual, predicted], self._one_hot(actual), self._one_hot(predicted))

    def confusion_rows(self) -> Iterator[tuple[str, str]]:
        """One an image."""
        for actual, predicted in zip(self.labels, self.predicted, strict=True):
            yield self.classes[actual], self.classes[predicted]

    def _one_hot(self, indices: Labels) -> Flags:
        flags: Flags = np.eye(len(self.classes), dtype=np.bool_)[indices]
        return flags
