"""What linear probes say of images that they were not fitted on, clean and transformed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from transferline.data.evidence import Evidence, Features

FOLDS = 5
PRIOR = 1.0  # of the probe: a simple one, whose answers do not depend on what varies little among clean images

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Of the probes, for each image.

    Attributes:
        right: float64 [M], 0 or 1; the mean is the accuracy. Of several labels, weighted to balance them.
        sure: float64 [M], probability of the truth.
    """

    right: Floats
    sure: Floats


def predict(evidence: Evidence, seed: int) -> list[Answers]:
    """Of the rows that are transformed, clean and after each transform, by probes that were not fitted on them."""
    from transferline.model import linear_probe as probe  # takes seconds, which a policy that is not audited spares

    features, labels, rows = _directions(evidence.clean), evidence.labels, evidence.rows
    asked = [features[rows], *(_directions(one.features) for one in evidence.transformed)]
    given = [np.zeros((len(rows), evidence.classes)) for _ in asked]
    for fitted, held in probe.grouped_folds(labels, evidence.groups, FOLDS, seed):
        fold = probe.fit_probe(features[fitted], labels[fitted], evidence.classes, prior=PRIOR, one_scale=True)
        met = np.isin(rows, held)
        if met.any():
            for probabilities, seen in zip(given, asked, strict=True):
                logits = fold.scores(seen[met])
                probabilities[met] = expit(logits) if fold.multilabel else softmax(logits, axis=1)
    return [answers(probabilities, labels[rows]) for probabilities in given]


def nothing(evidence: Evidence) -> list[Answers]:
    """Where there are too few images to ask about."""
    zeros = np.zeros(len(evidence.rows))
    return [Answers(zeros, zeros)] * (1 + len(evidence.transformed))


def answers(probabilities: Floats, labels: Labels) -> Answers:
    """Of probabilities [M, C]: of classes that exclude one another, or, where `labels` is [M, C], of each label."""
    if labels.ndim == 1:
        right: Floats = (probabilities.argmax(axis=1) == labels).astype(np.float64)
        return Answers(right, probabilities[np.arange(len(labels)), labels])
    share: Floats = labels.mean(axis=0)
    occurring = (share > 0) & (share < 1)
    if not occurring.any():
        return Answers(np.zeros(len(labels)), np.zeros(len(labels)))
    share, labels, probabilities = share[occurring], labels[:, occurring], probabilities[:, occurring]
    weights = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))
    sure = np.where(labels == 1, probabilities, 1 - probabilities)
    return Answers(((sure > 0.5) * weights).mean(axis=1), (sure * weights).mean(axis=1))


def by_chance(labels: Labels) -> tuple[float, float]:
    """Accuracy of always naming the largest class, and probability of the truth when guessing by class shares.

    Of several labels, both are balanced: one half.
    """
    if labels.ndim == 2:
        return 0.5, 0.5
    share = np.bincount(labels) / len(labels)
    return float(share.max()), float(np.sum(share**2))


def _directions(features: Features) -> Features:
    """[M, P], each row scaled to length 1: how strongly a backbone responds changes with light and blur."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled
