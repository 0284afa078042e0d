"""A linear probe: how well classes can be told apart by features that nothing more is learnt of.

Alain and Bengio 2016 (arXiv 1610.01644); Kornblith et al. 2019 (arXiv 1805.08974) find its accuracy to rank backbones
as transfer learning does. L2 multinomial logistic regression on standardised features, of which those that vary least
stay small; the same data give the same numbers.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy.special import log_softmax, stdtrit
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from transferline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PRIOR = 10.0  # variance of a logit before any image is seen: scikit-learn's C, times the number of features
PRIORS = (5.0, 20.0, 80.0, 320.0, 1280.0)  # that `held_out` tries
ITERATIONS = 1000
WORST = 20.0  # largest loss of an image in `log_losses`, that of a probability of 2e-9

Features = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Folds = Sequence[tuple[Labels, Labels]]  # rows to fit on, rows held out


@dataclass(frozen=True)
class Probe:
    """A linear map of standardised features to a score per class.

    Attributes:
        mean, scale: float64 [P], of the features that it was fitted on.
        weights: float64 [P, C].
        bias: float64 [C]; minus infinity for a class that it was fitted on no image of.
        multilabel: a class is predicted where its score is positive, and not the one of the highest score.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    multilabel: bool = False

    def scores(self, features: Features) -> Floats:
        """[M, P] -> float64 [M, C]: logits, up to a constant for each image where one class excludes the others."""
        standardised = (features - self.mean) / self.scale
        scores: Floats = standardised @ self.weights + self.bias
        return scores

    def predict(self, features: Features) -> Labels:
        """[M, P] -> int64 [M], indices of classes; multilabel: int64 [M, C] of 0 and 1."""
        scores = self.scores(features)
        return (scores > 0).astype(np.int64) if self.multilabel else scores.argmax(axis=1).astype(np.int64)


def fit_probe(
    features: Features, labels: Labels, classes: int, *, prior: float = PRIOR, one_scale: bool = False
) -> Probe:
    """Fit on all of `features`; a class that does not occur in `labels` is never predicted.

    Args:
        features: [N, P].
        labels: int64 [N], indices below `classes`; multilabel: int64 [N, classes] of 0 and 1, a probe for each column.
        classes: C.
        prior: variance of a logit before any image is seen; the smaller, the simpler the probe.
        one_scale: all features are divided by one number instead of each by its own.
    """
    (probe,) = fit_probes(features, labels, classes, priors=[prior], one_scale=one_scale)
    return probe


def fit_probes(
    features: Features,
    labels: Labels,
    classes: int,
    *,
    priors: Sequence[float],
    one_scale: bool = False,
    tolerance: float = 1e-4,
) -> list[Probe]:
    """As `fit_probe`, one for each prior; each starts from the one before, so ascending ones are fast.

    Args:
        tolerance: of the solver; where probes are only compared, a larger one does.
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # What hardly ever varies, as most of a backbone's features on images of one kind, is noise: it is not magnified.
    scale = np.maximum(spread, spread.mean() or 1.0)
    if one_scale:
        scale = np.full_like(spread, np.sqrt(np.mean(spread**2)) or 1.0)
    given, basis = _rotated((features - mean) / scale)
    strengths = [prior / features.shape[1] for prior in priors]
    if labels.ndim == 1:
        fitted = _fit(given, labels, classes, strengths=strengths, tolerance=tolerance)
        return [Probe(mean, scale, basis @ weights, bias) for weights, bias in fitted]
    pairs = [_fit(given, column, 2, strengths=strengths, tolerance=tolerance) for column in labels.T]
    probes = []
    for number in range(len(priors)):
        weights = np.column_stack([pair[number][0][:, 1] - pair[number][0][:, 0] for pair in pairs])
        bias = np.array([pair[number][1][1] - pair[number][1][0] for pair in pairs])
        probes.append(Probe(mean, scale, basis @ weights, bias, multilabel=True))
    return probes


def _rotated(standardised: Floats) -> tuple[Floats, Floats]:
    """[N, P] along its principal axes, and the orthonormal basis [P, K] of what its rows span; K at most N and P.

    An L2 penalty does not see a rotation, and weights outside the span stay 0: the fit is the same, for less work.
    """
    rows, columns = standardised.shape
    wide = rows < columns
    values, vectors = np.linalg.eigh(standardised @ standardised.T if wide else standardised.T @ standardised)
    kept = values > max(values.max(initial=0.0), 0.0) * 1e-10
    basis = standardised.T @ (vectors[:, kept] / np.sqrt(values[kept])) if wide else vectors[:, kept]
    return standardised @ basis, basis


def _fit(
    given: Floats, labels: Labels, classes: int, *, strengths: Sequence[float], tolerance: float
) -> list[tuple[Floats, Floats]]:
    """Weights [P, C] and bias [C] of one softmax, for each of scikit-learn's C.

    The columns of `given` are uncorrelated, so dividing each by about the root of the loss's curvature along it leaves
    L-BFGS a problem that is nearly round: the same minimum as scikit-learn's, in a fraction of its steps.
    """
    import torch  # which those who only read verdicts need not have

    present, own = np.unique(labels, return_inverse=True)
    unseen = np.full(classes, -np.inf)
    unseen[present] = 0.0
    rows, count = len(given), len(present)
    if count == 1:
        return [(np.zeros((given.shape[1], classes)), unseen)] * len(strengths)
    truth, padded = torch.from_numpy(own), torch.from_numpy(np.column_stack([given, np.ones(rows)]))
    variances = padded.square().mean(0)
    found, weights = [], torch.zeros(padded.shape[1], count, dtype=torch.float64)
    for strength in strengths:
        # Of two classes scikit-learn has one logit, whose penalty is twice that of half of it and its negative.
        penalty = torch.full_like(variances, (2 if count == 2 else 1) / (strength * rows))
        penalty[-1] = 0.0
        unit = (variances * (count - 1) / count**2 + penalty).rsqrt()[:, None]
        weights = unit * _minimum(padded * unit.T, truth, (penalty[:, None] * unit**2), weights / unit, tolerance)
        full, bias = np.zeros((given.shape[1], classes)), unseen.copy()
        full[:, present], bias[present] = weights[:-1].numpy(), weights[-1].numpy()
        found.append((full, bias))
    return found


def _minimum(given: "Tensor", truth: "Tensor", penalty: "Tensor", start: "Tensor", tolerance: float) -> "Tensor":
    """Weights of the least mean cross-entropy plus half of the sum of their squares, each times its penalty.

    Args:
        given: float64 [N, P].
        truth: int64 [N], indices below C.
        penalty: float64 [P, 1].
        start: float64 [P, C].
        tolerance: of the largest entry of the gradient.

    Returns:
        float64 [P, C].
    """
    import torch

    weights, rows = start.clone(), torch.arange(len(truth))
    solver: torch.optim.Optimizer = torch.optim.LBFGS(
        [weights], max_iter=ITERATIONS, tolerance_grad=tolerance, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        """The gradient by hand: after one by autograd, a forked process could have none."""
        scores = (given @ weights).log_softmax(1)
        error = scores.exp()
        error[rows, truth] -= 1
        weights.grad = given.T @ error / len(truth) + penalty * weights
        return (-scores[rows, truth].mean() + (penalty * weights.square()).sum() / 2).item()

    solver.step(loss)
    return weights


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
    for fitted, held in grouped_folds(labels, groups, folds, seed):
        predicted = fit_probe(features[fitted], labels[fitted], classes).predict(features[held])
        accuracy.append(float(accuracy_score(labels[held].ravel(), predicted.ravel())))
        macro_f1.append(float(f1_score(labels[held], predicted, average="macro", zero_division=0.0)))
    return Scores(accuracy, macro_f1)


def held_out_scores(features: Features, labels: Labels, classes: int, folds: Folds, prior: float = PRIOR) -> Floats:
    """Scores of each image by a probe that was fitted on neither it nor any other image of its group.

    Args:
        features: [N, P].
        labels: int64 [N], indices below `classes`; multilabel: int64 [N, classes] of 0 and 1.
        folds: of `grouped_folds`; a progress bar counts them.
        prior: as of `fit_probe`.

    Returns:
        float64 [N, classes], as Probe.scores. Where a class lies in one fold alone, its images are judged by a probe
        that knows nothing of it: minus infinity there; of several labels also infinity, where every other image has it.
    """
    scores = np.full((len(labels), classes), -np.inf)
    for fitted, held in track(folds, "label errors: probes on the training images"):
        scores[held] = fit_probe(features[fitted], labels[fitted], classes, prior=prior).scores(features[held])
    return scores


@dataclass(frozen=True)
class HeldOut:
    """What a probe says of images when neither they nor others of their group were fitted on.

    Attributes:
        prior: of the probe.
        losses: float64 [N], log loss of each image, at most WORST.
        right: float64 [N], 1 where an image is predicted right, else 0.
    """

    prior: float
    losses: Floats
    right: Floats

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def held_out(
    features: Features, labels: Labels, classes: int, folds: Folds, priors: Sequence[float] = PRIORS
) -> HeldOut:
    """Of `priors`, the one of lowest cross-validated log loss.

    Args:
        features: [N, P].
        labels: int64 [N], indices below `classes`; multilabel: int64 [N, classes] of 0 and 1; loss and right answers
            are then means over the classes.
        folds: of `grouped_folds`.
    """
    losses, right = np.full((len(priors), len(labels)), WORST), np.zeros((len(priors), len(labels)))
    for fitted, held in folds:
        probes = fit_probes(features[fitted], labels[fitted], classes, priors=priors, tolerance=1e-3)
        for number, probe in enumerate(probes):
            losses[number, held], right[number, held] = log_losses(probe.scores(features[held]), labels[held])
    best = int(losses.mean(axis=1).argmin())
    return HeldOut(priors[best], losses[best], right[best])


def log_losses(scores: npt.NDArray[np.floating], labels: Labels) -> tuple[Floats, Floats]:
    """Of logits [M, C]: the log loss of each image, at most WORST, and 1 where it is predicted right, else 0.

    Of several labels, labels int64 [M, C], both are means over the classes.
    """
    if labels.ndim == 2:
        signs = np.where(labels == 1, 1.0, -1.0)
        losses = np.logaddexp(0.0, -signs * np.clip(scores, -WORST, WORST))
        return losses.mean(axis=1), ((scores > 0) == (labels == 1)).mean(axis=1)
    own = log_softmax(scores.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return np.minimum(-own, WORST), (scores.argmax(axis=1) == labels).astype(np.float64)


def macro_f1(logits: npt.NDArray[np.floating], labels: Labels) -> float:
    """Of logits [M, C] and labels int64 [M], or, of several labels, [M, C] of 0 and 1, predicted where positive."""
    called = (logits > 0).astype(np.int64) if labels.ndim == 2 else logits.argmax(axis=1)
    return float(f1_score(labels, called, average="macro", zero_division=0.0))


def grouped_folds(labels: Labels, groups: Labels, folds: int, seed: int) -> Folds:
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
