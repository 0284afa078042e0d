"""The numbers of a classifier on the test split. scikit-learn computes them; nothing here is NaN."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from transferline.evaluation.calibration import reliability
from transferline.evaluation.outcome import Curve, Floats, Labels, Outcome

DIGITS = 10  # beyond them lies rounding that differs between machines
CHUNK = 1000  # resamples held in memory at once
METRIC_KEY_LENGTH = 250  # MLflow's limit


def evaluate(outcome: Outcome, bins: int, resamples: int, seed: int) -> dict[str, Any]:
    """Every number of the report, as plain JSON types.

    Averages over classes take in the classes that occur in the test split or in a prediction, as
    scikit-learn does; a class that is never predicted has precision 0. `roc_auc` and `pr_auc` are
    None where no class has both images in it and images outside it.

    Args:
        bins: bins of the calibration error.
        resamples: bootstrap resamples behind the 95 % intervals.
    """
    actual, predicted = outcome.labels, outcome.predicted
    scores = {
        "accuracy": accuracy_score(actual, predicted),
        # not balanced_accuracy_score: it warns of classes that are predicted but never occur
        "balanced_accuracy": recall_score(actual, predicted, labels=np.unique(actual), average="macro"),
        **_averages(outcome, "macro"),
        **_averages(outcome, "weighted"),
        "log_loss": log_loss(actual, outcome.probabilities, labels=np.arange(len(outcome.classes))),
        "roc_auc": _roc_auc(outcome),
        "pr_auc": _mean([curve.average_precision for curve in precision_recall_curves(outcome)]),
        "ece": reliability(outcome.uncalibrated, actual, bins).error,
        "ece_calibrated": reliability(outcome.probabilities, actual, bins).error,
        "temperature": outcome.temperature,
    }
    return {
        **{name: _plain(value) for name, value in scores.items()},
        "images": len(actual),
        "intervals": bootstrap_intervals(confusion(outcome), resamples, seed),
        "per_class": _per_class(outcome),
    }


def confusion(outcome: Outcome) -> Labels:
    """Counts int64 [C, C]: rows are the actual classes, columns the predicted ones."""
    counts: Labels = confusion_matrix(outcome.labels, outcome.predicted, labels=np.arange(len(outcome.classes)))
    return counts


def precision_recall_curves(outcome: Outcome) -> list[Curve]:
    """One for each class that has both images in it and images outside it."""
    curves = []
    for index in _separable(outcome):
        members, scores = outcome.labels == index, outcome.probabilities[:, index]
        precision, recall, _ = precision_recall_curve(members, scores)
        area = float(average_precision_score(members, scores))
        curves.append(Curve(outcome.classes[index], precision, recall, area))
    return curves


def scalars(scores: dict[str, Any]) -> dict[str, float]:
    """The scores as one flat level for a tracker: intervals as `_low` and `_high`, F1 as `f1_<class>`."""
    flat = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    for name, (low, high) in scores["intervals"].items():
        flat[f"{name}_low"], flat[f"{name}_high"] = low, high
    for name, row in scores["per_class"].items():
        # MLflow refuses most other characters in the name of a metric
        flat[re.sub(r"[^\w.\- ]", "_", f"f1_{name}")[:METRIC_KEY_LENGTH]] = row["f1"]
    return flat


def bootstrap_intervals(confusion: Labels, resamples: int, seed: int) -> dict[str, list[float]]:
    """95 % percentile intervals (Efron 1979) of accuracy, balanced accuracy and macro-F1.

    These depend on the confusion matrix alone, and drawing N images with replacement draws the
    counts of its cells from a multinomial distribution: so that is drawn, without the images.

    Args:
        confusion: int64 [C, C], rows are the actual classes.
    """
    actual, predicted = np.nonzero(confusion)
    draws = [headlines(cells, actual, predicted) for cells in _resampled(confusion[actual, predicted], resamples, seed)]
    intervals = {}
    for name in draws[0]:
        low, high = np.percentile(np.concatenate([draw[name] for draw in draws]), [2.5, 97.5])
        intervals[name] = [round(float(low), DIGITS), round(float(high), DIGITS)]
    return intervals


def _resampled(cells: Labels, resamples: int, seed: int) -> Iterator[Floats]:
    """Chunks [<= CHUNK, K] of counts drawn anew; floats, since NumPy multiplies those far faster."""
    generator = np.random.default_rng(seed)
    total = int(cells.sum())
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        yield generator.multinomial(total, cells / total, size=rows).astype(np.float64)


def headlines(cells: Floats, actual: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp]) -> dict[str, Floats]:
    """Accuracy, balanced accuracy and macro-F1, each float64 [B], of B confusion matrices at once.

    Args:
        cells: float64 [B, K], counts of K cells of the matrix; the other cells are empty.
        actual, predicted: [K], row and column of each cell.
    """
    one_hot = np.eye(max(actual.max(), predicted.max()) + 1)
    supports = cells @ one_hot[actual]
    calls = cells @ one_hot[predicted]
    hits = (cells * (actual == predicted)) @ one_hot[actual]
    return {
        "accuracy": hits.sum(axis=1) / cells.sum(axis=1),
        "balanced_accuracy": _mean_ratio(hits, supports),
        "macro_f1": _mean_ratio(2 * hits, supports + calls),
    }


def _mean_ratio(numerators: Floats, denominators: Floats) -> Floats:
    """Per row, the mean of the ratios [B, C] over the columns whose denominator is not 0."""
    used = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=used)
    means: Floats = ratios.sum(axis=1) / used.sum(axis=1)
    return means


def _averages(outcome: Outcome, average: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        outcome.labels, outcome.predicted, average=average, zero_division=0
    )
    return {f"{average}_precision": precision, f"{average}_recall": recall, f"{average}_f1": f1}


def _per_class(outcome: Outcome) -> dict[str, dict[str, float]]:
    columns = precision_recall_fscore_support(
        outcome.labels, outcome.predicted, labels=np.arange(len(outcome.classes)), zero_division=0
    )
    return {
        name: {"precision": _plain(p), "recall": _plain(r), "f1": _plain(f), "support": int(support)}
        for name, p, r, f, support in zip(outcome.classes, *columns, strict=True)
    }


def _separable(outcome: Outcome) -> list[int]:
    counts = np.bincount(outcome.labels, minlength=len(outcome.classes))
    return [int(index) for index in np.flatnonzero((counts > 0) & (counts < len(outcome.labels)))]


def _roc_auc(outcome: Outcome) -> float | None:
    return _mean(
        [roc_auc_score(outcome.labels == index, outcome.probabilities[:, index]) for index in _separable(outcome)]
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _plain(value: float | None) -> Any:
    """A Python float (or None), rounded."""
    if value is None:
        return None
    assert np.isfinite(value), f"a metric is {value}"
    return round(float(value), DIGITS)
