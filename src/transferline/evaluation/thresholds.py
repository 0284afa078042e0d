"""Where to cut each label's probability, tuned on validation."""

import numpy as np

from transferline.evaluation.outcome import DIGITS, Flags, Floats

USUAL = 0.5


def tune_thresholds(probabilities: Floats, members: Flags) -> Floats:
    """The threshold of each label that maximises its own F1, and so macro-F1 (Lipton et al. 2014, arXiv 1402.1892).

    Args:
        probabilities: float64 [N, C] on validation.
        members: bool [N, C], whether the image has the label.

    Returns:
        float64 [C]. Of thresholds that are equally good the one nearest 0.5, which is also that of a
        label without images; else halfway between the probabilities that it separates.
    """
    return np.array([_best(*columns) for columns in zip(probabilities.T, members.T, strict=True)], dtype=np.float64)


def _best(probabilities: Floats, members: Flags) -> float:
    """The threshold of one label, from the cuts after each of its K distinct probabilities, highest first."""
    if not members.any():
        return USUAL
    values, index = np.unique(-probabilities, return_inverse=True)
    calls = np.cumsum(np.bincount(index))
    hits = np.cumsum(np.bincount(index, weights=members))
    f1 = 2 * hits / (calls + members.sum())
    high, low = -values, np.append(-values[1:], 0.0)  # thresholds above low and up to high cut here
    cuts = np.where((low < USUAL) & (high >= USUAL), USUAL, (low + high) / 2)
    best = np.flatnonzero(f1 == f1.max())
    nearest = best[np.argmin(np.abs(cuts[best] - USUAL))]
    return round(float(cuts[nearest]), DIGITS)
