"""Suspected label errors: images whose label a model that never learnt it does not believe.

Confident learning (Northcutt et al. 2021, arXiv 1911.00068), by cleanlab, on probabilities from two judges:

- The finetuned network judges validation and test images, of which it has learnt no label: the validation images as it
  was before any refit on them.
- Of the training images it has learnt all labels, wrong ones too. Out-of-fold probes judge them, on features of the
  pretrained backbone, which has seen no label, and of the finetuned one, which separates far better: their scores are
  averaged, so that what the finetuned one has learnt by heart is still doubted where the pretrained one has doubts.

An image is suspected where cleanlab's estimate of how many labels of its class are wrong reaches down to it, and
another class has more than HALF of the probability; the label quality score is the probability of its own label (of
several labels, cleanlab's weighted mean of their qualities).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferline import labelsets
from transferline.artifacts import SPLITS, Arrays, SplitName, write_csv
from transferline.evaluation.calibration import Logits, sigmoid, softmax
from transferline.evaluation.outcome import DIGITS, Flags, Floats, Labels

Features = npt.NDArray[np.float32]

FOLDS = 5
PRIOR = 0.5  # of the probe on finetuned features, which separate so well that the simplest map serves
# A class counts for an image from its mean probability among images that have it on. Where those are all but 1, half of
# its errors would stay below: this much is enough.
SURE = 0.9
HALF = 0.5  # of probability: another class has more of it, or a judge that knows nothing would suspect at random
HEADER = ("path", "split", "given", "suggested", "quality", "suspected")


class Judgement(NamedTuple):
    """What is thought of an image's label; `row` is its place in the arrays of its split."""

    path: str
    split: SplitName
    given: str  # a class, or a joined set
    suggested: str
    quality: float  # 0..1
    suspected: bool
    row: int


@dataclass(frozen=True)
class LabelErrors:
    """All images that could be judged: the suspected ones first, and of each kind the worst first."""

    ranked: list[Judgement]

    @property
    def suspected(self) -> list[Judgement]:
        return [one for one in self.ranked if one.suspected]

    def agreement(self) -> dict[SplitName, float]:
        """Of each split, the share of images whose own label is what their judge would give them."""
        agreed = {name: [one.given == one.suggested for one in self.ranked if one.split == name] for name in SPLITS}
        return {name: float(np.mean(values)) for name, values in agreed.items() if values}

    def counts(self) -> dict[str, float]:
        """For metrics.json: images judged, how many of them are suspected, and what share that is."""
        judged, suspected = len(self.ranked), len(self.suspected)
        return {"judged": judged, "suspected": suspected, "share": round(suspected / max(judged, 1), DIGITS)}

    def write(self, path: Path) -> None:
        """A row an image; the first column has the paths as `prepare.exclude` takes them."""
        rows = ((*one[:4], f"{one.quality:.6f}", "yes" if one.suspected else "no") for one in self.ranked)
        write_csv(path, HEADER, rows)


def find(
    features: Sequence[Features],
    logits: Mapping[SplitName, Logits],
    splits: Mapping[SplitName, Arrays],
    temperature: float,
    seed: int,
) -> LabelErrors:
    """Judge every label that can be judged: that of a class without images elsewhere to learn it from cannot.

    Args:
        features: of the clean training images, [N, P] each, of the pretrained backbone first.
        logits: [M, C] each, of the finetuned network, of images that it was not trained on.
        temperature: that these are divided by.
        seed: of the folds.
    """
    train = splits["train"]
    known, groups = train.counts > 0, np.arange(len(train.labels)) if train.groups is None else train.groups
    judged = _judged({name: np.where(known, one / temperature, -np.inf) for name, one in logits.items()}, splits)
    if _can_be_folded(train.labels, groups):
        judged += _judged({"train": _out_of_fold(features, train, groups, seed)}, splits)
    return LabelErrors(sorted(judged, key=lambda one: (not one.suspected, one.quality, one.path)))


def _can_be_folded(labels: Labels, groups: Labels) -> bool:
    if labels.ndim == 1 and (np.count_nonzero(np.bincount(labels)) < 2 or np.bincount(labels).max() < 2):
        return False
    return len(np.unique(groups)) > 1


def _out_of_fold(features: Sequence[Features], train: Arrays, groups: Labels, seed: int) -> Floats:
    """float64 [N, C]: the mean of what the probes on each kind of features score, the same folds for all."""
    from transferline.model import linear_probe as probe

    folds = probe.grouped_folds(train.labels, groups, FOLDS, seed)
    scores = [
        probe.held_out_scores(one, train.labels, len(train.classes), folds, prior)
        for prior, one in zip((probe.PRIOR, PRIOR), features, strict=False)
    ]
    mean: Floats = np.mean(scores, axis=0)
    return mean


def _judged(scores: Mapping[SplitName, Floats], splits: Mapping[SplitName, Arrays]) -> list[Judgement]:
    """What one judge thinks of the images of some splits, taken together; `scores` as of `Probe.scores`."""
    labels = np.concatenate([splits[name].labels for name in scores])
    given = np.concatenate(list(scores.values()))
    opinion = _of_sets(labels, given) if labels.ndim == 2 else _of_classes(labels, given)
    places = [(name, row) for name in scores for row in range(len(scores[name]))]
    return [
        Judgement(
            path=splits[name].paths[row],
            split=name,
            given=labelsets.join(splits[name].names(row)),
            suggested=labelsets.join(splits[name].classes[index] for index in np.flatnonzero(opinion.suggested[place])),
            quality=round(float(opinion.quality[place]), DIGITS),
            suspected=bool(opinion.suspected[place]),
            row=row,
        )
        for place, (name, row) in enumerate(places)
        if opinion.judged[place]
    ]


class _Opinion(NamedTuple):
    """Of N images: bool [N], bool [N, C], float64 [N], bool [N]."""

    judged: Flags
    suggested: Flags
    quality: Floats
    suspected: Flags


def _of_classes(labels: Labels, scores: Floats) -> _Opinion:
    from cleanlab.rank import get_label_quality_scores

    judged = np.isfinite(scores[np.arange(len(labels)), labels])
    probabilities, quality, suspected = softmax(scores), np.ones(len(labels)), np.zeros(len(labels), dtype=np.bool_)
    if judged.any():
        quality[judged] = get_label_quality_scores(labels[judged], probabilities[judged])
        suspected[judged] = _issues(labels[judged], probabilities[judged])
    return _Opinion(judged, np.eye(scores.shape[1], dtype=np.bool_)[scores.argmax(axis=1)], quality, suspected)


def _of_sets(labels: Labels, scores: Floats) -> _Opinion:
    """Each label for itself; an image is suspected where one of its labels is, or one that it lacks."""
    from cleanlab.multilabel_classification import get_label_quality_scores

    known, members = np.isfinite(scores), labels == 1
    probabilities = np.where(known, sigmoid(scores), labels)
    pairs = (np.stack([1 - column, column], axis=1) for column in probabilities.T)
    doubted = known & np.stack([_issues(column, pair) for column, pair in zip(labels.T, pairs, strict=True)], axis=1)
    sets = [np.flatnonzero(row).tolist() for row in members]
    quality: Floats = (1 - probabilities).min(axis=1)  # where no image has any label, of which cleanlab makes nothing
    if members.any():
        quality = np.asarray(get_label_quality_scores(sets, probabilities))
    suggested: Flags = members ^ doubted
    suspected: Flags = doubted.sum(axis=1) > 0
    return _Opinion(known.sum(axis=1) > 0, suggested, quality, suspected)


def _issues(labels: Labels, probabilities: Floats) -> Flags:
    """bool [N], of labels int64 [N] and probabilities [N, K]; of a single class cleanlab has nothing to compare."""
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.filter import find_label_issues

    if len(np.unique(labels)) < 2:
        return np.zeros(len(labels), dtype=np.bool_)
    with warnings.catch_warnings():  # it warns of classes that are rare or missing
        warnings.simplefilter("ignore")
        usual = get_confident_thresholds(labels, probabilities)
        joint = np.asarray(compute_confident_joint(labels, probabilities, thresholds=np.minimum(usual, SURE)))
        found: Flags = find_label_issues(labels, probabilities, confident_joint=joint, n_jobs=1)
    likely: Flags = probabilities.max(axis=1) > HALF
    return found & likely
