"""The policy audit as it is run and shown: audit.json, a picture, and lines in the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from transferline.artifacts import write_json
from transferline.augmentation import BROAD, SAFE, rarer, starting_policy
from transferline.data.evidence import Evidence
from transferline.data.images import Pixels
from transferline.evaluation.audit import (
    FEWEST,
    LEAST,
    SHARE,
    Audit,
    Finding,
    enabled,
    judge,
    lines,
    skipped,
)
from transferline.evaluation.pictures import BLUE, INK, MUTED, RED, save
from transferline.policy import Transform
from transferline.sections import Augment

_LOST = f"{SHARE:g} of what the probe knows: its mean probability of the true class, beyond guessing by class shares"
_AUTOMATIC = f"left out: a transform that costs more than {_LOST}"
_LISTED = f"flagged: the 95 % bootstrap interval of what the transform costs lies wholly above {_LOST}"
_NOT_JUDGED = (
    f"not judged: fewer than {FEWEST} groups of images, or a probe whose accuracy is not certainly above chance and"
    f" {LEAST:g} above it"
)
Policy = tuple[Transform, ...]


def run(
    augment: Augment,
    weights: str,
    look: Callable[[Sequence[Transform]], Evidence],
    folder: Path,
    *,
    images: int,
    seed: int,
) -> tuple[Policy, Audit | None]:
    """Audit the policy, write audit.json and audit.png, and print the result.

    Args:
        weights: of the model.
        look: gives what the transforms are judged by.
        folder: of the files.
        images: to train on.

    Returns:
        The policy to carry out: as listed, or, of auto, what the audit leaves, the rarer the more images there are.
        And the audit; None where there is nothing to audit, and the reason is printed.
    """
    automatic = augment.policy == "auto"
    if reason := skipped(augment, weights):
        print(f"augment: the policy is not audited: {reason}", flush=True)
        audit = None
    else:
        evidence = look(enabled(starting_policy(augment.policy)))
        audit = judge(evidence, seed, automatic=automatic)
        print("\n".join(f"augment: {line}" for line in lines(audit)), flush=True)
    policy = rarer(choose(audit), images) if augment.policy == "auto" else augment.policy
    if automatic:
        print(
            f"augment: policy auto: {_listed(policy)}{'' if judged(audit) else ', which suit any labels'}", flush=True
        )
    if audit:
        write(audit, evidence, policy, folder)
    return policy, audit


def judged(audit: Audit | None) -> bool:
    return audit is not None and audit.doubt is None


def choose(audit: Audit | None) -> Policy:
    """Of `policy: auto`: the broad list without what is flagged; the safe list where nothing could be judged."""
    if audit is None or audit.doubt:
        return SAFE
    left_out = {finding.name for finding in audit.flagged}
    return tuple(transform for transform in BROAD if transform.name not in left_out)


def caption(policy: Policy, audit: Audit | None) -> str:
    """What makes the views, for the title of a picture of them."""
    made = _listed(policy) or "no augmentation"
    left_out = _listed(audit.flagged) if audit and audit.automatic else ""
    return f"{made}; left out by the audit: {left_out}" if left_out else made


def _listed(transforms: Sequence[Transform] | Sequence[Finding]) -> str:
    shown = [one.name for one in transforms if isinstance(one, Finding) or one.enabled]
    return ", ".join(name.replace("_", " ") for name in shown)


def write(audit: Audit, evidence: Evidence, policy: Policy, folder: Path) -> None:
    """audit.json and audit.png."""
    rule = f"{_AUTOMATIC if audit.automatic else _LISTED}; {_NOT_JUDGED}"
    made = [transform.model_dump(mode="json") for transform in policy]
    write_json(folder / "audit.json", {"rule": rule, **asdict(audit), "policy": made})
    save(draw(audit, evidence), folder / "audit.png")


def draw(audit: Audit, evidence: Evidence) -> Figure:
    """A row a transform: an image before and after it, and what it costs the probe, with the interval."""
    rows = len(audit.findings)
    figure = Figure(figsize=(9, 1.2 * rows + 1.6), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=[1, 1, 5])
    title = f"What transforms cost a probe on frozen {audit.backbone}, {audit.images} images"
    verdict = f"cannot judge: {audit.doubt}" if audit.doubt else f"{_flag(audit)}: {len(audit.flagged)} of {rows}"
    figure.suptitle(f"{title}\n{fill(verdict, 100)}", color=INK, fontsize=12)
    for axes, finding, one in zip(grid, audit.findings, evidence.transformed, strict=True):
        _show(axes[0], evidence.example)
        _show(axes[1], one.example)
        _draw_cost(axes[2], audit, finding)
    grid[0, 0].set_title("clean", fontsize=9)
    grid[0, 1].set_title("transformed", fontsize=9)
    grid[-1, 2].tick_params(labelbottom=True)
    grid[-1, 2].set_xlabel("share of what the probe knows that is lost; dashed: the threshold")
    return figure


def _draw_cost(axes: Axes, audit: Audit, finding: Finding) -> None:
    low, high = finding.interval
    reach = [[max(finding.lost - low, 0)], [max(high - finding.lost, 0)]]
    colour = RED if finding.flagged else MUTED if audit.doubt else BLUE
    axes.barh([0], [finding.lost], height=0.6, color=colour, xerr=reach, ecolor=INK, capsize=4)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(SHARE, color=MUTED, linestyle="--", linewidth=1.4)
    axes.set_xlim(-0.25, 1.25)
    axes.set_ylim(-0.6, 0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelbottom=False)
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    flag = f"   {_flag(audit)}" if finding.flagged else ""
    told = f"{finding.name.replace('_', ' ')}   accuracy {audit.accuracy:.0%} -> {finding.accuracy:.0%}{flag}"
    axes.set_title(told, loc="left", fontsize=10, color=RED if finding.flagged else INK)


def _flag(audit: Audit) -> str:
    return "left out" if audit.automatic else "flagged"


def _show(axes: Axes, image: Pixels) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
