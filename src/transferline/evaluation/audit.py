"""The policy audit: a quick probe says which transforms leave an image's label to be told.

A linear probe (Alain and Bengio 2016, arXiv 1610.01644) is fitted on frozen features of clean training images, each
scaled to length 1, and meets clean validation images and the same images after each transform of the policy. The rule:

A transform is flagged where the 95 % bootstrap interval of its drop in accuracy, paired image by image (Efron 1979),
lies wholly above LARGE and above SHARE of what the probe knows beyond chance. Chance is always naming the largest
class. Where the probe knows less than LARGE beyond chance, or not for certain more than nothing, or FEWEST images
are not at hand, it cannot judge, and neither passes nor flags.

A flag says that the frozen backbone no longer tells the label. A transform that is far from everything it was trained
on does that, too, as strong noise: a flag is a reason to look. Where images have several labels, accuracy is the mean
of right answers on images with and without a label, over labels, and chance is one half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferline.data.evidence import Evidence, Features
from transferline.errors import UserError
from transferline.policy import RandAugment, Transform, TrivialAugment
from transferline.sections import Augment

LARGE = 0.15  # of accuracy
SHARE = 1 / 3
FEWEST = 30  # images
RESAMPLES = 2000
PRIOR = 0.05  # of the probe: a simple one, whose answers do not hang on what varies little among clean images
DIGITS = 4

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """What one transform costs the probe.

    Attributes:
        name: in the policy; a second of the same name has `_2` behind it.
        settings: as in params.yaml.
        accuracy: on the validation images so transformed.
        drop: against clean ones.
        interval: of the drop, 95 %.
    """

    name: str
    settings: dict[str, Any]
    accuracy: float
    drop: float
    interval: Interval
    flagged: bool
    remedy: str


@dataclass(frozen=True)
class Audit:
    """The verdicts on a policy, and what they rest on.

    Attributes:
        train_images, images: how many images the probe was fitted on, and how many it was asked about.
        accuracy, interval: of the probe on clean validation images, and its 95 % interval.
        threshold: what the interval of a drop lies above where a transform is flagged.
        doubt: why the probe cannot judge; None where it can.
        findings: in the policy's order.
    """

    backbone: str
    train_images: int
    images: int
    accuracy: float
    interval: Interval
    chance: float
    threshold: float
    doubt: str | None
    findings: list[Finding]

    @property
    def flagged(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.flagged]

    def metrics(self) -> dict[str, float]:
        """For a tracker, on one level."""
        drops = {f"audit_drop_{finding.name}": finding.drop for finding in self.findings}
        return {"audit_accuracy": self.accuracy, "audit_flagged": len(self.flagged), **drops}

    def enforce(self, audit: str) -> None:
        """Raises UserError where `audit` is refuse and a transform is flagged."""
        if audit == "refuse" and self.flagged:
            costs = "; ".join(f"{finding.name} ({cost(self, finding)})" for finding in self.flagged)
            remedies = " and ".join(dict.fromkeys(finding.remedy for finding in self.flagged))
            raise UserError(
                f"params.yaml: augment.policy: labels do not survive {costs}",
                f"{remedies}; or augment.audit: warn goes on all the same",
            )


def enabled(policy: Sequence[Transform]) -> list[Transform]:
    return [transform for transform in policy if transform.enabled and transform.p > 0]


def skipped(augment: Augment, weights: str) -> str | None:
    """Why there is nothing to audit; None where there is."""
    if augment.audit == "off":
        return "augment.audit is off"
    if augment.views == 0 and not augment.online:
        return "augment.views is 0, so that no view is made"
    if not enabled(augment.policy):
        return "no transform is switched on"
    if weights == "none":
        return "model.weights is none, and features of random weights tell nothing"
    return None


def judge(evidence: Evidence, seed: int) -> Audit:
    """Fit the probe, and judge every transform by the rule above.

    Args:
        seed: of the bootstrap.
    """
    from transferline.evaluation.probe import fit_probe  # takes seconds, which a policy that is not audited spares

    train, labels = _directions(evidence.train), evidence.labels
    probe = fit_probe(train, evidence.train_labels, evidence.classes, seed, prior=PRIOR, one_scale=True)
    clean = scores(probe.predict(_directions(evidence.clean)), labels)
    transformed = [scores(probe.predict(_directions(one.features)), labels) for one in evidence.transformed]
    policy = [one.transform for one in evidence.transformed]
    return verdicts(
        clean,
        transformed,
        policy,
        chance=by_chance(labels),
        backbone=evidence.backbone,
        train_images=len(evidence.train),
        seed=seed,
    )


def _directions(features: Features) -> Features:
    """[M, P], each row scaled to length 1: how strongly a backbone responds changes with light and blur."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def verdicts(
    clean: Floats,
    transformed: Sequence[Floats],
    policy: Sequence[Transform],
    *,
    chance: float,
    backbone: str,
    train_images: int,
    seed: int,
) -> Audit:
    """The rule itself.

    Args:
        clean: float64 [M], score of each clean validation image; the mean is the accuracy.
        transformed: the same of the same images after each transform of `policy`.
    """
    rows = np.random.default_rng(seed).integers(0, len(clean), (RESAMPLES, len(clean)))
    accuracy, interval = float(clean.mean()), _interval(clean, rows)
    threshold = max(LARGE, SHARE * (accuracy - chance))
    doubt = _doubt(len(clean), accuracy, interval[0], chance)
    findings = []
    for name, transform, score in zip(_names(policy), policy, transformed, strict=True):
        drop = clean - score
        bounds = _interval(drop, rows)
        flagged = doubt is None and bounds[0] > threshold
        figures = transform.model_dump(mode="json"), _rounded(score.mean()), _rounded(drop.mean()), bounds
        findings.append(Finding(name, *figures, flagged=flagged, remedy=_remedy(transform)))
    return Audit(
        backbone=backbone,
        train_images=train_images,
        images=len(clean),
        accuracy=_rounded(accuracy),
        interval=interval,
        chance=_rounded(chance),
        threshold=_rounded(threshold),
        doubt=doubt,
        findings=findings,
    )


def _names(policy: Sequence[Transform]) -> list[str]:
    """Those of the policy; a second of the same has `_2` behind it, and so on."""
    names = [transform.name for transform in policy]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def scores(predicted: Labels, labels: Labels) -> Floats:
    """float64 [M] whose mean is the accuracy: right or wrong; of several labels, weighted to balance them."""
    right: Floats = (predicted == labels).astype(np.float64)
    if labels.ndim == 1:
        return right
    share: Floats = labels.mean(axis=0)
    occurring = (share > 0) & (share < 1)
    if not occurring.any():
        return np.zeros(len(labels))
    share, labels = share[occurring], labels[:, occurring]
    weights = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))
    balanced: Floats = (right[:, occurring] * weights).mean(axis=1)
    return balanced


def by_chance(labels: Labels) -> float:
    """Accuracy without looking: the share of the largest class; of several labels, balanced, one half."""
    return 0.5 if labels.ndim == 2 else float(np.bincount(labels).max() / len(labels))


def lines(audit: Audit) -> list[str]:
    """For the terminal: the flagged transforms, each with what to do, and a summary."""
    if audit.doubt:
        return [f"the policy audit cannot judge: {audit.doubt}"]
    told = [
        f"{finding.name}: labels do not survive it ({cost(audit, finding)}): {finding.remedy}"
        for finding in audit.flagged
    ]
    count, of = len(audit.flagged), len(audit.findings)
    verdict = f"{count} of {of} transforms flagged" if count else f"none of {of} transforms is flagged"
    probe = f"a probe on frozen {audit.backbone} is right on {audit.accuracy:.0%} of {audit.images} validation images"
    return [*told, f"policy audit: {verdict}; {probe}"]


def cost(audit: Audit, finding: Finding) -> str:
    """In words, as of a probe's accuracy."""
    low, high = finding.interval
    return (
        f"accuracy {audit.accuracy:.2f} -> {finding.accuracy:.2f},"
        f" a drop of {finding.drop:.2f} with a 95 % interval of {low:.2f} to {high:.2f}"
    )


def _doubt(images: int, accuracy: float, low: float, chance: float) -> str | None:
    if images < FEWEST:
        return f"{images} validation images are too few, and {FEWEST} the fewest"
    if low <= chance or accuracy - chance <= LARGE:
        return (
            f"a probe on frozen features is right on {accuracy:.0%} of clean validation images,"
            f" too little above the {chance:.0%} of chance"
        )
    return None


def _interval(values: Floats, rows: npt.NDArray[np.int64]) -> Interval:
    """95 % percentile interval of the mean, over resampled `rows` [B, M]."""
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return _rounded(low), _rounded(high)


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)


def _remedy(transform: Transform) -> str:
    if isinstance(transform, TrivialAugment | RandAugment):
        return f"exclude operations of {transform.name}, as exclude: [rotate, shear_x, shear_y]"
    ranges = [name for name, value in transform if isinstance(value, tuple)]
    narrower = f"narrow {ranges[0]} of {transform.name}, or " if ranges else ""
    return f"{narrower}set enabled: false at {transform.name}"
