"""The test split where an image has any number of labels, each decided by a threshold of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from transferline.evaluation.outcome import Cells, Flags, Floats, Labels, Outcome

NOT_THERE, NOT_FOUND = "(not there)", "(not found)"


@dataclass(frozen=True)
class Multilabel(Outcome):
    """`labels` are int64 [N, C] of 0 and 1; each probability stands for itself.

    Attributes:
        thresholds: float64 [C]; an image has a label whose probability is at least its threshold.
    """

    multilabel: ClassVar[bool] = True

    thresholds: Floats

    @property
    def predicted(self) -> Labels:
        """int64 [N, C] of 0 and 1."""
        return self.calls.astype(np.int64)

    @property
    def members(self) -> Flags:
        flags: Flags = self.labels == 1
        return flags

    @property
    def calls(self) -> Flags:
        reached: Flags = self.probabilities >= self.thresholds
        return reached

    @property
    def confidences(self) -> Floats:
        """float64 [N], the largest distance of a probability from the truth among the labels decided wrongly."""
        distance = np.abs(self.probabilities - self.labels)
        largest: Floats = np.where(self.members != self.calls, distance, 0.0).max(axis=1)
        return largest

    def decisions(self, probabilities: Floats) -> tuple[Floats, Flags]:
        """One an image and label: the label's probability, and whether the image has it."""
        return probabilities.ravel(), self.members.ravel()

    @property
    def tallies(self) -> Labels:
        """int64 [C, 3]: per label, images where it was found, where it was missed, and false alarms."""
        members, calls = self.members, self.calls
        counts: Labels = np.stack([members & calls, members & ~calls, ~members & calls], axis=2).sum(axis=0)
        return counts

    def cells(self) -> Cells:
        """The pairs of label sets that occur, sorted."""
        pairs, counts = np.unique(np.hstack([self.members, self.calls]), axis=0, return_counts=True)
        actual, predicted = np.hsplit(pairs, 2)
        return Cells(counts, actual, predicted)

    def confusion_rows(self) -> Iterator[tuple[str, str]]:
        """One a label that an image has or is given; what neither has is left out, being most of all pairs."""
        for actual, predicted in zip(self.members, self.calls, strict=True):
            for index in np.flatnonzero(actual | predicted):
                name = self.classes[index]
                yield name if actual[index] else NOT_THERE, name if predicted[index] else NOT_FOUND
