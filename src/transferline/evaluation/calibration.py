"""Logits to probabilities that can be believed: temperature scaling and the calibration error."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transferline.errors import UserError
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Flags, Floats, Labels, Outcome
from transferline.evaluation.thresholds import tune_thresholds

Logits = npt.NDArray[np.floating]

LARGEST_LOG_TEMPERATURE = 3.0  # a factor of 20 either way; a network further off is broken, not uncalibrated
BISECTIONS = 50  # halve the range to below the spacing of float64


def calibrate(
    val_logits: Logits, val_labels: Labels, test_logits: Logits, test_labels: Labels, classes: list[str]
) -> Outcome:
    """Fit the temperature on validation and apply it to the test split; thresholds, too, in multi-label data.

    Args:
        val_logits, test_logits: [N, C] each.
        val_labels, test_labels: int64 [N] each, indices into `classes`; or [N, C] of 0 and 1.

    Raises:
        UserError: where a logit is not finite.
    """
    if not (np.isfinite(val_logits).all() and np.isfinite(test_logits).all()):
        raise UserError(
            "the finetuned network gives logits that are not finite: its training has diverged",
            "lower tune.search.lr.high and tune.start.lr in params.yaml, or set finetune.precision to 32-true",
        )
    temperature = fit_temperature(val_logits, val_labels)
    if val_labels.ndim == 1:
        return Multiclass(test_labels, softmax(test_logits), softmax(test_logits, temperature), temperature, classes)
    thresholds = tune_thresholds(sigmoid(val_logits, temperature), val_labels == 1)
    return Multilabel(
        test_labels, sigmoid(test_logits), sigmoid(test_logits, temperature), temperature, classes, thresholds
    )


def softmax(logits: Logits, temperature: float = 1.0) -> Floats:
    """Probabilities float64 [N, C] of logits [N, C] divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))  # the largest is 1: none overflows
    probabilities: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: Logits, temperature: float = 1.0) -> Floats:
    """Probabilities float64 [N, C], each for itself, of logits [N, C] divided by `temperature`."""
    probabilities: Floats = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64) / temperature))  # none overflows
    return probabilities


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599).

    The likelihood is concave in 1/temperature, so bisecting its slope over the log-temperature finds
    the one maximum. Where every image is right it only grows as the temperature falls to 0: there is
    nothing to learn from then, and the answer is 1.

    Args:
        logits: [N, C].
        labels: int64 [N], for softmax; [N, C] of 0 and 1, for sigmoid and binary cross-entropy.
    """
    if _separated(logits, labels):
        return 1.0
    low, high = -LARGEST_LOG_TEMPERATURE, LARGEST_LOG_TEMPERATURE
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _overconfidence(logits, labels, float(np.exp(middle))) > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def _separated(logits: Logits, labels: Labels) -> bool:
    """Whether every image, or every label of every image, is right."""
    right = logits.argmax(axis=1) == labels if labels.ndim == 1 else (logits > 0) == (labels == 1)
    return bool(right.all())


def _overconfidence(logits: Logits, labels: Labels, temperature: float) -> float:
    """Slope of the negative log-likelihood over 1/temperature: above 0 where the temperature is too low."""
    if labels.ndim == 2:
        return float(np.mean((sigmoid(logits, temperature) - labels) * logits))
    expected = (softmax(logits, temperature) * logits).sum(axis=1)
    return float(np.mean(expected - logits[np.arange(len(labels)), labels]))


@dataclass(frozen=True)
class Reliability:
    """Decisions sorted by confidence into B bins of equal width over 0..1; empty bins hold zeros.

    Attributes:
        counts: int64 [B], decisions in each bin.
        confidence: float64 [B], mean probability that was stated.
        accuracy: float64 [B], share of what came true.
    """

    counts: Labels
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence|, weighted by the counts."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts))


def reliability(confidences: Floats, right: Flags, bins: int) -> Reliability:
    """Bin the decisions of Outcome.decisions; a bin holds its upper edge, as in Guo et al."""
    index = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Reliability(
        counts=counts,
        confidence=np.bincount(index, weights=confidences, minlength=bins) / divisor,
        accuracy=np.bincount(index, weights=right, minlength=bins) / divisor,
    )
