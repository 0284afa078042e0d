"""Two classifiers on the same images: how far the one is worse, and whether chance alone would make it so."""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from transferline.evaluation.bootstrap import headlines, resampled
from transferline.evaluation.outcome import DIGITS, Cells, Flags, Floats, Labels, Outcome

FIGURES = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Paired:
    """A candidate held against a reference; differences are the candidate's figure less the reference's.

    Attributes:
        accuracy, macro_f1: of the candidate; in multi-label data accuracy asks for the whole set of labels.
        accuracy_interval, macro_f1_interval: of the difference, 95 %.
        reference_alone, candidate_alone: images that it alone is right about.
        p_value: that they are right equally often, by McNemar's exact test.
        agreement: share of the images whose answer is the same.
        max_difference: of a probability.
    """

    images: int
    accuracy: float
    accuracy_difference: float
    accuracy_interval: list[float]
    macro_f1: float
    macro_f1_difference: float
    macro_f1_interval: list[float]
    reference_alone: int
    candidate_alone: int
    p_value: float
    agreement: float
    max_difference: float

    @property
    def loss(self) -> float:
        """The larger drop of accuracy and macro-F1; what is gained counts for nothing, being chance."""
        return max(0.0, -self.accuracy_difference, -self.macro_f1_difference)

    @property
    def worse(self) -> bool:
        """Whether one of the two figures is lower beyond chance: its interval lies below 0."""
        return self.accuracy_interval[1] < 0 or self.macro_f1_interval[1] < 0


def compare(reference: Outcome, candidate: Outcome, resamples: int, seed: int) -> Paired:
    """Both of the same images, in one order.

    Args:
        resamples: of the paired bootstrap (Efron 1979), which draws images with both answers that they were given.
    """
    members, calls = reference.members, (reference.calls, candidate.calls)
    assert np.array_equal(members, candidate.members), "a paired test is of the same images"
    counts, before, after = _cells(members, *calls)
    drawn = [_differences(sample, before, after) for sample in resampled(counts, resamples, seed)]
    intervals = {name: np.percentile(np.concatenate([one[name] for one in drawn]), [2.5, 97.5]) for name in FIGURES}
    whole = counts[np.newaxis].astype(np.float64)
    figures = headlines(whole, after.actual, after.predicted)
    differences = _differences(whole, before, after)
    right = [(members == one).all(axis=1) for one in calls]
    alone = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return Paired(
        images=len(members),
        accuracy=_rounded(figures["accuracy"][0]),
        accuracy_difference=_rounded(differences["accuracy"][0]),
        accuracy_interval=[_rounded(end) for end in intervals["accuracy"]],
        macro_f1=_rounded(figures["macro_f1"][0]),
        macro_f1_difference=_rounded(differences["macro_f1"][0]),
        macro_f1_interval=[_rounded(end) for end in intervals["macro_f1"]],
        reference_alone=alone[0],
        candidate_alone=alone[1],
        p_value=_rounded(mcnemar(*alone)),
        agreement=_rounded((calls[0] == calls[1]).all(axis=1).mean()),
        max_difference=_rounded(np.abs(reference.probabilities - candidate.probabilities).max()),
    )


def mcnemar(one: int, other: int) -> float:
    """The p-value of McNemar's exact test (1947), two-sided, where each of the two alone is right so often."""
    pairs = one + other
    return min(1.0, 2 * float(bdtr(min(one, other), pairs, 0.5))) if pairs else 1.0


def _cells(*flags: Flags) -> tuple[Labels, Cells, Cells]:
    """The triples of truth and both answers that occur: their counts int64 [K], and the cells of either classifier."""
    triples, counts = np.unique(np.hstack(flags), axis=0, return_counts=True)
    actual, first, second = np.hsplit(triples, 3)
    return counts, Cells(counts, actual, first), Cells(counts, actual, second)


def _differences(counts: Floats, before: Cells, after: Cells) -> dict[str, Floats]:
    """Each float64 [B], of counts [B, K]."""
    first, second = (headlines(counts, cells.actual, cells.predicted) for cells in (before, after))
    return {name: second[name] - first[name] for name in FIGURES}


def _rounded(value: float | np.floating) -> float:
    return round(float(value), DIGITS)
