"""The numbers of a classifier on the test split. scikit-learn computes them; nothing here is NaN."""

import re
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    hamming_loss,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from transferline.evaluation.bootstrap import bootstrap_intervals
from transferline.evaluation.calibration import reliability
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import DIGITS, Curve, Mark, Outcome

METRIC_KEY_LENGTH = 250  # MLflow's limit


def evaluate(outcome: Outcome, bins: int, resamples: int, seed: int) -> dict[str, Any]:
    """Every number of the report, as plain JSON types.

    Averages over classes take in the classes that occur in the test split or in a prediction, as
    scikit-learn does; a class that is never predicted has precision 0. `roc_auc` and `pr_auc` are
    None where no class has both images in it and images outside it. In multi-label data, `accuracy`
    asks for the whole set of labels, averages over classes take in all labels, `pr_auc` is what that
    field calls mAP, and log loss and calibration errors are over all labels of all images.

    Args:
        bins: bins of the calibration error.
        resamples: bootstrap resamples behind the 95 % intervals.
    """
    scores = {
        "accuracy": accuracy_score(outcome.labels, outcome.predicted),
        **_averages(outcome, "macro"),
        **_averages(outcome, "weighted"),
        "roc_auc": _roc_auc(outcome),
        "pr_auc": _mean([curve.average_precision for curve in precision_recall_curves(outcome)]),
        "ece": reliability(*outcome.decisions(outcome.uncalibrated), bins).error,
        "ece_calibrated": reliability(*outcome.decisions(outcome.probabilities), bins).error,
        "temperature": outcome.temperature,
        **_scores_of_task(outcome),
    }
    intervals = bootstrap_intervals(outcome.cells(), resamples, seed)
    return {
        **{name: _plain(value) for name, value in scores.items()},
        "images": len(outcome.labels),
        "intervals": {name: interval for name, interval in intervals.items() if name in scores},
        **_by_class(outcome),
    }


def precision_recall_curves(outcome: Outcome) -> list[Curve]:
    """One for each class that has both images in it and images outside it."""
    members, curves = outcome.members, []
    for index in _separable(outcome):
        scores = outcome.probabilities[:, index]
        precision, recall, _ = precision_recall_curve(members[:, index], scores)
        area = float(average_precision_score(members[:, index], scores))
        mark = _mark(outcome, index) if isinstance(outcome, Multilabel) else None
        curves.append(Curve(outcome.classes[index], precision, recall, area, mark))
    return curves


def scalars(scores: dict[str, Any]) -> dict[str, float]:
    """The scores as one flat level for a tracker: intervals as `_low` and `_high`, F1 as `f1_<class>`."""
    flat = _with_intervals(scores)
    flat |= {f"probe_{name}": value for name, value in _with_intervals(scores.get("probe", {})).items()}
    for name, gain in scores.get("gain", {}).items():
        flat |= {f"gain_{name}": gain["difference"], f"gain_{name}_low": gain["low"], f"gain_{name}_high": gain["high"]}
    flat |= {f"leakage_{name}": value for name, value in scores.get("leakage", {}).items() if value is not None}
    flat |= {f"label_errors_{name}": value for name, value in scores.get("label_errors", {}).items()}
    for name, row in scores["per_class"].items():
        # MLflow refuses most other characters in the name of a metric
        flat[re.sub(r"[^\w.\- ]", "_", f"f1_{name}")[:METRIC_KEY_LENGTH]] = row["f1"]
    return flat


def _with_intervals(figures: dict[str, Any]) -> dict[str, float]:
    flat = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    for name, (low, high) in figures.get("intervals", {}).items():
        flat[f"{name}_low"], flat[f"{name}_high"] = low, high
    return flat


def _scores_of_task(outcome: Outcome) -> dict[str, float]:
    actual, predicted = outcome.labels, outcome.predicted
    if isinstance(outcome, Multilabel):
        decided, truth = outcome.decisions(outcome.probabilities)
        return {
            **_averages(outcome, "micro"),
            "hamming_loss": hamming_loss(actual, predicted),
            "log_loss": log_loss(truth, decided, labels=[False, True]),
        }
    assert isinstance(outcome, Multiclass)
    return {
        # not balanced_accuracy_score: it warns of classes that are predicted but never occur
        "balanced_accuracy": recall_score(actual, predicted, labels=np.unique(actual), average="macro"),
        "log_loss": log_loss(actual, outcome.probabilities, labels=np.arange(len(outcome.classes))),
    }


def _averages(outcome: Outcome, average: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        outcome.labels, outcome.predicted, average=average, zero_division=0
    )
    return {f"{average}_precision": precision, f"{average}_recall": recall, f"{average}_f1": f1}


def _by_class(outcome: Outcome) -> dict[str, dict[str, Any]]:
    columns = precision_recall_fscore_support(
        outcome.labels, outcome.predicted, labels=np.arange(len(outcome.classes)), zero_division=0
    )
    rows = {
        name: {"precision": _plain(p), "recall": _plain(r), "f1": _plain(f), "support": int(support)}
        for name, p, r, f, support in zip(outcome.classes, *columns, strict=True)
    }
    if not isinstance(outcome, Multilabel):
        return {"per_class": rows}
    areas = {curve.name: curve.average_precision for curve in precision_recall_curves(outcome)}
    thresholds = {name: _plain(value) for name, value in zip(outcome.classes, outcome.thresholds, strict=True)}
    for name, row in rows.items():
        row |= {"average_precision": _plain(areas.get(name)), "threshold": thresholds[name]}
    return {"per_class": rows, "thresholds": thresholds}


def _mark(outcome: Multilabel, index: int) -> Mark:
    found, missed, false = outcome.tallies[index].tolist()
    return Mark(float(outcome.thresholds[index]), found / max(found + missed, 1), found / max(found + false, 1))


def _separable(outcome: Outcome) -> list[int]:
    counts = outcome.members.sum(axis=0)
    return [int(index) for index in np.flatnonzero((counts > 0) & (counts < len(outcome.labels)))]


def _roc_auc(outcome: Outcome) -> float | None:
    members = outcome.members
    return _mean([roc_auc_score(members[:, index], outcome.probabilities[:, index]) for index in _separable(outcome)])


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _plain(value: float | None) -> Any:
    """A Python float (or None), rounded."""
    if value is None:
        return None
    assert np.isfinite(value), f"a metric is {value}"
    return round(float(value), DIGITS)
