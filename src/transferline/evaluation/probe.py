"""A linear probe: how well classes can be told apart by features that nothing more is learnt of.

Alain and Bengio 2016 (arXiv 1610.01644); Kornblith et al. 2019 (arXiv 1805.08974) find its accuracy to rank backbones
as transfer learning does. L2 multinomial logistic regression on standardised features, of which those that vary least
stay small; the same data give the same numbers.
"""

import warnings
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy.special import stdtrit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from transferline.errors import UserError

PRIOR = 10.0  # variance of a logit before any image is seen: scikit-learn's C, times the number of features
ITERATIONS = 1000

Features = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Probe:
    """A linear map of standardised features to a score per class.

    Attributes:
        mean, scale: float64 [P], of the features that it was fitted on.
        weights: float64 [P, C].
        bias: float64 [C]; minus infinity for a class that it was fitted on no image of.
        multilabel: a class is predicted where its score is positive, and not the one of the highest score.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    multilabel: bool = False

    def scores(self, features: Features) -> npt.NDArray[np.float64]:
        """[M, P] -> float64 [M, C]: logits, up to a constant for each image where one class excludes the others."""
        standardised = (features - self.mean) / self.scale
        scores: npt.NDArray[np.float64] = standardised @ self.weights + self.bias
        return scores

    def predict(self, features: Features) -> Labels:
        """[M, P] -> int64 [M], indices of classes; multilabel: int64 [M, C] of 0 and 1."""
        scores = self.scores(features)
        return (scores > 0).astype(np.int64) if self.multilabel else scores.argmax(axis=1).astype(np.int64)


def fit_probe(
    features: Features, labels: Labels, classes: int, seed: int, *, prior: float = PRIOR, one_scale: bool = False
) -> Probe:
    """Fit on all of `features`; a class that does not occur in `labels` is never predicted.

    Args:
        features: [N, P].
        labels: int64 [N], indices below `classes`; multilabel: int64 [N, classes] of 0 and 1, a probe for each column.
        classes: C.
        seed: of the solver.
        prior: variance of a logit before any image is seen; the smaller, the simpler the probe.
        one_scale: all features are divided by one number instead of each by its own.
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # What hardly ever varies, as most of a backbone's features on images of one kind, is noise: it is not magnified.
    scale = np.maximum(spread, spread.mean() or 1.0)
    if one_scale:
        scale = np.full_like(spread, np.sqrt(np.mean(spread**2)) or 1.0)
    standardised = (features - mean) / scale
    if labels.ndim == 1:
        return Probe(mean, scale, *_fit(standardised, labels, classes, seed, prior))
    weights, bias = np.empty((features.shape[1], classes)), np.empty(classes)
    for column in range(classes):
        pair, offsets = _fit(standardised, labels[:, column], 2, seed, prior)
        weights[:, column], bias[column] = pair[:, 1] - pair[:, 0], offsets[1] - offsets[0]
    return Probe(mean, scale, weights, bias, multilabel=True)


def _fit(
    standardised: npt.NDArray[np.float64], labels: Labels, classes: int, seed: int, prior: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights [P, C] and bias [C] of one softmax."""
    weights, bias = np.zeros((standardised.shape[1], classes)), np.full(classes, -np.inf)
    present = np.unique(labels)
    bias[present] = 0.0
    if len(present) == 1:
        return weights, bias
    solver = LogisticRegression(C=prior / standardised.shape[1], max_iter=ITERATIONS, random_state=seed)
    with warnings.catch_warnings():  # where it stops early, what it has is good enough to compare
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(standardised, labels)
    # Of two classes scikit-learn keeps the second's logit alone.
    weights[:, present[-len(solver.coef_) :]] = solver.coef_.T
    bias[present[-len(solver.coef_) :]] = solver.intercept_
    return weights, bias


@dataclass(frozen=True)
class Scores:
    """What probes of a cross-validation reach, fold by fold, on images that they were not fitted on."""

    accuracy: list[float]
    macro_f1: list[float]


def cross_validate(features: Features, labels: Labels, groups: Labels, folds: int, seed: int) -> Scores:
    """Fit and score a probe for each fold; images of one group are never in two folds.

    Args:
        features: [N, P].
        labels: int64 [N]; multilabel: [N, C] of 0 and 1, whose accuracy is the share of right answers, class by class.
        groups: int64 [N], of (near) duplicates, as in the manifest.
        folds: at most; no more than there are groups. Of `labels` [N], each has about the same share of every class.
        seed: of the folds.

    Raises:
        UserError: where all images are of one group, or of one class.
    """
    if len(np.unique(groups)) < 2 or (labels.ndim == 1 and len(np.unique(labels)) < 2):
        raise UserError(
            f"{len(labels)} images of one group or one class cannot be cross-validated",
            "give images of two classes at least, no copies of one another",
        )
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    accuracy, macro_f1 = [], []
    for fitted, held in _folds(labels, groups, folds, seed):
        predicted = fit_probe(features[fitted], labels[fitted], classes, seed).predict(features[held])
        accuracy.append(float(accuracy_score(labels[held].ravel(), predicted.ravel())))
        macro_f1.append(float(f1_score(labels[held], predicted, average="macro", zero_division=0.0)))
    return Scores(accuracy, macro_f1)


def held_out_scores(
    features: Features,
    labels: Labels,
    groups: Labels,
    classes: int,
    seed: int,
    *,
    folds: int,
    prior: float = PRIOR,
) -> npt.NDArray[np.float64]:
    """Scores of each image by a probe that was fitted on neither it nor any other image of its group.

    Args:
        features: [N, P].
        labels: int64 [N], indices below `classes`; multilabel: int64 [N, classes] of 0 and 1.
        groups: int64 [N], of (near) duplicates; two at least.
        folds: at most, as in `cross_validate`; a progress bar counts them.
        prior: as of `fit_probe`.

    Returns:
        float64 [N, classes], as Probe.scores. Where a class lies in one fold alone, its images are judged by a probe
        that knows nothing of it: minus infinity there; of several labels also infinity, where every other image has it.
    """
    scores = np.full((len(labels), classes), -np.inf)
    for fitted, held in track(_folds(labels, groups, folds, seed), "label errors: probes on the training images"):
        scores[held] = fit_probe(features[fitted], labels[fitted], classes, seed, prior=prior).scores(features[held])
    return scores


def _folds(labels: Labels, groups: Labels, folds: int, seed: int) -> list[tuple[Labels, Labels]]:
    """Rows to fit on and rows held out, of each fold that has both."""
    folds = min(folds, len(np.unique(groups)))
    if labels.ndim == 2:
        splits = GroupKFold(folds, shuffle=True, random_state=seed).split(labels, groups=groups)
    else:
        folds = max(2, min(folds, int(np.bincount(labels).max())))
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    with warnings.catch_warnings():  # a class of fewer images than folds is missing in some: that is coped with
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [(fitted, held) for fitted, held in splits if len(fitted) and len(held)]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean of the folds' scores in 0..1, and its 95 % interval.

    Folds share most of what they are fitted on; Student's interval is widened as Nadeau and Bengio 2003 (Machine
    Learning 52, 239-281) correct it: the variance is multiplied by 1/k + 1/(k - 1) instead of 1/k.
    """
    mean, count = fmean(values), len(values)
    if count == 1:
        return mean, 0.0, 1.0
    half = float(stdtrit(count - 1, 0.975)) * stdev(values) * (1 / count + 1 / (count - 1)) ** 0.5
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)
