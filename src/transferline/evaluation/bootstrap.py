"""How much a figure depends on which images happened to be in the test split."""

from collections.abc import Iterator

import numpy as np

from transferline.evaluation.outcome import DIGITS, Cells, Flags, Floats, Labels

CHUNK = 1000  # resamples held in memory at once,
COUNTS = 10_000_000  # and counts, where there are many cells


def bootstrap_intervals(cells: Cells, resamples: int, seed: int) -> dict[str, list[float]]:
    """95 % percentile intervals (Efron 1979) of what `headlines` gives.

    Those figures depend on the counts of the cells alone, and drawing N images with replacement draws
    these counts from a multinomial distribution: so that is drawn, without the images.
    """
    draws = [headlines(drawn, cells.actual, cells.predicted) for drawn in resampled(cells.counts, resamples, seed)]
    intervals = {}
    for name in draws[0]:
        low, high = np.percentile(np.concatenate([draw[name] for draw in draws]), [2.5, 97.5])
        intervals[name] = [round(float(low), DIGITS), round(float(high), DIGITS)]
    return intervals


def resampled(counts: Labels, resamples: int, seed: int) -> Iterator[Floats]:
    """Chunks [.., K] of counts, int64 [K], drawn anew; floats, since NumPy multiplies those far faster."""
    generator = np.random.default_rng(seed)
    total, chunk = int(counts.sum()), max(1, min(CHUNK, COUNTS // len(counts)))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        yield generator.multinomial(total, counts / total, size=rows).astype(np.float64)


def headlines(counts: Floats, actual: Flags, predicted: Flags) -> dict[str, Floats]:
    """Accuracy, balanced accuracy and macro-F1, each float64 [B], of B resamples at once.

    Args:
        counts: float64 [B, K], images in each of K cells.
        actual, predicted: bool [K, C], classes of each cell.
    """
    right = (actual == predicted).all(axis=1)
    supports = counts @ actual.astype(np.float64)
    calls = counts @ predicted.astype(np.float64)
    hits = counts @ (actual & predicted).astype(np.float64)
    return {
        "accuracy": (counts @ right.astype(np.float64)) / counts.sum(axis=1),
        "balanced_accuracy": _mean_ratio(hits, supports),
        "macro_f1": _mean_ratio(2 * hits, supports + calls),
    }


def _mean_ratio(numerators: Floats, denominators: Floats) -> Floats:
    """Per row, the mean of the ratios [B, C] over the columns whose denominator is not 0; 0 without any."""
    used = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=used)
    means: Floats = ratios.sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    return means
