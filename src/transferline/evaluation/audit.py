"""The policy audit: a quick probe says which transforms destroy the labels of images.

Linear probes (Alain and Bengio 2016, arXiv 1610.01644) are fitted on frozen features of clean images, each scaled to
length 1, by cross-validation within train and validation: each predicts images that it was not fitted on, clean and
after each transform of the policy. What the probe knows is the mean probability that it gives to the true class,
beyond that of guessing by class shares. What a transform costs is the share of this that is lost, paired image by
image. The probability is bounded, unlike its logarithm, and less noisy than accuracy on few images. An invariance that
the backbone merely lacks costs little: quarter turns of aerial images 3 %, of characters 50 %.

- A transform of `policy: auto` is left out where the cost is above SHARE: to leave out a harmless one costs little.
- A listed transform, which the user chose, is flagged only where this is certain: where the 95 % bootstrap interval
  (Efron 1979) of the cost lies wholly above SHARE.
- Backbones trained with horizontal flips hardly see them, so their cost says little. `policy: auto` leaves them out
  where both vertical flips and quarter turns are left out: such images are upright, as characters and X-rays are.

Where the probe is right on less than LEAST beyond chance (always naming the largest class), or not certainly above it,
or fewer than FEWEST groups of images are available, the audit cannot judge, and neither passes nor flags.

A flag says that the frozen backbone no longer tells the label. A transform that is far from everything it was trained
on does that, too, as strong noise: a flag is a reason to look. Where images have several labels, right answers and
probabilities are weighted so that images with and without a label count the same, and chance is one half.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from transferline.augmentation import starting_policy
from transferline.data.evidence import Evidence
from transferline.errors import UserError
from transferline.evaluation import held_out
from transferline.evaluation.held_out import Answers, Floats, Labels
from transferline.policy import RandAugment, Transform, TrivialAugment
from transferline.sections import Augment

SHARE = 0.2  # of what the probe knows
LEAST = 0.1  # of accuracy
FEWEST = 30  # groups of images
RESAMPLES = 2000
DIGITS = 4

Interval = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """What one transform costs the probe.

    Attributes:
        name: in the policy; a second of the same name has `_2` behind it.
        settings: as in params.yaml.
        accuracy: on the images so transformed.
        lost: share of what the probe knows that is lost.
        interval: of `lost`, 95 %.
    """

    name: str
    settings: dict[str, Any]
    accuracy: float
    lost: float
    interval: Interval
    flagged: bool
    remedy: str


@dataclass(frozen=True)
class Audit:
    """The verdicts on a policy, and what they rest on.

    Attributes:
        automatic: whether the policy is `auto`, whose flagged transforms are left out.
        clean_images, images: how many images the probes were fitted on, in turns, and how many were transformed.
        accuracy, interval: of the probes on the latter when clean, and its 95 % interval.
        doubt: why the probe cannot judge; None where it can.
        findings: in the policy's order.
    """

    backbone: str
    automatic: bool
    clean_images: int
    images: int
    accuracy: float
    interval: Interval
    chance: float
    doubt: str | None
    findings: list[Finding]

    @property
    def flagged(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.flagged]

    def metrics(self) -> dict[str, float]:
        """For a tracker, on one level."""
        lost = {f"audit_lost_{finding.name}": finding.lost for finding in self.findings}
        return {"audit_accuracy": self.accuracy, "audit_flagged": len(self.flagged), **lost}

    def enforce(self, audit: str) -> None:
        """Raises UserError where `audit` is refuse and a listed transform is flagged."""
        if audit == "refuse" and self.flagged and not self.automatic:
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
    if not enabled(starting_policy(augment.policy)):
        return "no transform is switched on"
    if weights == "none":
        return "model.weights is none, and features of random weights tell nothing"
    return None


def judge(evidence: Evidence, seed: int, *, automatic: bool = False) -> Audit:
    """Fit the probes, and judge every transform by the rules above.

    Args:
        seed: of folds and bootstrap.
        automatic: whether the policy is `auto`.
    """
    labels = evidence.labels[evidence.rows]
    groups = len(np.unique(evidence.groups[evidence.rows]))
    clean, *transformed = held_out.predict(evidence, seed) if groups >= FEWEST else held_out.nothing(evidence)
    return verdicts(
        clean,
        transformed,
        [one.transform for one in evidence.transformed],
        labels=labels,
        backbone=evidence.backbone,
        clean_images=len(evidence.clean),
        groups=groups,
        seed=seed,
        automatic=automatic,
    )


def verdicts(
    clean: Answers,
    transformed: Sequence[Answers],
    policy: Sequence[Transform],
    *,
    labels: Labels,
    backbone: str,
    clean_images: int,
    groups: int,
    seed: int,
    automatic: bool = False,
) -> Audit:
    """The rules themselves.

    Args:
        clean: on the M clean images.
        transformed: on the same images after each transform of `policy`.
        labels: of these images, as in Evidence.
        groups: how many of (near) duplicates they are.
    """
    rows = np.random.default_rng(seed).integers(0, len(labels), (RESAMPLES, len(labels)))
    chance, guessed = held_out.by_chance(labels)
    accuracy, interval = float(clean.right.mean()), _interval(clean.right, rows)
    known = float(clean.sure.mean()) - guessed
    doubt = _doubt(groups, accuracy, interval[0], chance, known)
    findings = []
    for name, transform, seen in zip(_names(policy), policy, transformed, strict=True):
        lost = (clean.sure - seen.sure) / known if doubt is None else np.zeros(len(labels))
        bounds = _interval(lost, rows)
        flagged = bool((lost.mean() if automatic else bounds[0]) > SHARE)
        figures = transform.model_dump(mode="json"), _rounded(seen.right.mean()), _rounded(lost.mean()), bounds
        findings.append(Finding(name, *figures, flagged=flagged, remedy=_remedy(transform)))
    return Audit(
        backbone=backbone,
        automatic=automatic,
        clean_images=clean_images,
        images=len(labels),
        accuracy=_rounded(accuracy),
        interval=interval,
        chance=_rounded(chance),
        doubt=doubt,
        findings=_mirrored_alike(findings) if automatic else findings,
    )


def _mirrored_alike(findings: list[Finding]) -> list[Finding]:
    """Horizontal flips flagged, too, where vertical ones and quarter turns are."""
    if {one.name for one in findings if one.flagged} >= {"vertical_flip", "quarter_turns"}:
        return [replace(one, flagged=True) if one.name == "horizontal_flip" else one for one in findings]
    return findings


def _names(policy: Sequence[Transform]) -> list[str]:
    """Those of the policy; a second of the same has `_2` behind it, and so on."""
    names = [transform.name for transform in policy]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def lines(audit: Audit) -> list[str]:
    """For the terminal: the flagged transforms, each with what to do, and a summary; of auto, what was left out."""
    if audit.doubt:
        return [f"the policy audit cannot judge: {audit.doubt}"]
    probe = f"a probe on frozen {audit.backbone} is right on {audit.accuracy:.0%} of {audit.images} images"
    if audit.automatic:
        costs = ", ".join(f"{one.name} (accuracy {audit.accuracy:.2f} -> {one.accuracy:.2f})" for one in audit.flagged)
        return [f"policy auto leaves out {costs or 'nothing'}; {probe}"]
    told = [
        f"{finding.name}: labels do not survive it ({cost(audit, finding)}): {finding.remedy}"
        for finding in audit.flagged
    ]
    count, of = len(audit.flagged), len(audit.findings)
    verdict = f"{count} of {of} transforms flagged" if count else f"none of {of} transforms is flagged"
    return [*told, f"policy audit: {verdict}; {probe}"]


def cost(audit: Audit, finding: Finding) -> str:
    """In words."""
    low, high = finding.interval
    return (
        f"accuracy {audit.accuracy:.2f} -> {finding.accuracy:.2f},"
        f" {finding.lost:.0%} of what the probe knows is lost, with a 95 % interval of {low:.0%} to {high:.0%}"
    )


def _doubt(groups: int, accuracy: float, low: float, chance: float, known: float) -> str | None:
    if groups < FEWEST:
        return f"{groups} images that are no copies of one another are too few, and {FEWEST} the fewest"
    if low <= chance or accuracy - chance <= LEAST or known <= 0:
        return (
            f"a probe on frozen features is right on {accuracy:.0%} of clean images,"
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
