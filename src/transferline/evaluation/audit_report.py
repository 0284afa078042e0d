"""The policy audit as it is run and shown: audit.json, a picture, and lines in the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from transferline.artifacts import write_json
from transferline.data.evidence import Evidence
from transferline.data.images import Pixels
from transferline.evaluation.audit import FEWEST, LARGE, SHARE, Audit, Finding, enabled, judge, lines, skipped
from transferline.evaluation.pictures import BLUE, INK, MUTED, RED, save
from transferline.policy import Transform
from transferline.sections import Augment

RULE = (
    "flagged: the 95 % bootstrap interval of the drop in accuracy, paired image by image, lies wholly above"
    f" {LARGE:g} and above {SHARE:.2f} of what the probe knows beyond chance; not judged: fewer than {FEWEST} images,"
    f" or a probe that is not certainly above chance and {LARGE:g} above it"
)


def run(
    augment: Augment, weights: str, look: Callable[[Sequence[Transform]], Evidence], folder: Path, seed: int
) -> Audit | None:
    """Audit the policy, write audit.json and audit.png, and say what came of it.

    Args:
        weights: of the model.
        look: gives what the transforms are judged by.
        folder: of the files.

    Returns:
        None where there is nothing to audit; the reason is printed.
    """
    if reason := skipped(augment, weights):
        print(f"augment: the policy is not audited: {reason}", flush=True)
        return None
    evidence = look(enabled(augment.policy))
    audit = judge(evidence, seed)
    write(audit, evidence, folder)
    print("\n".join(f"augment: {line}" for line in lines(audit)), flush=True)
    return audit


def write(audit: Audit, evidence: Evidence, folder: Path) -> None:
    """audit.json and audit.png."""
    write_json(folder / "audit.json", {"rule": RULE, **asdict(audit)})
    save(draw(audit, evidence), folder / "audit.png")


def draw(audit: Audit, evidence: Evidence) -> Figure:
    """A row a transform: an image before and after it, and the probe's accuracy with the interval of its drop."""
    rows = len(audit.findings)
    figure = Figure(figsize=(9, 1.2 * rows + 1.6), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=[1, 1, 5])
    title = f"Accuracy of a probe on frozen {audit.backbone}, {audit.images} validation images"
    verdict = f"cannot judge: {audit.doubt}" if audit.doubt else f"flagged: {len(audit.flagged)} of {rows}"
    figure.suptitle(f"{title}\n{fill(verdict, 100)}", color=INK, fontsize=12)
    for axes, finding, one in zip(grid, audit.findings, evidence.transformed, strict=True):
        _show(axes[0], evidence.example)
        _show(axes[1], one.example)
        _draw_accuracy(axes[2], audit, finding)
    grid[0, 0].set_title("clean", fontsize=9)
    grid[0, 1].set_title("transformed", fontsize=9)
    grid[-1, 2].tick_params(labelbottom=True)
    grid[-1, 2].set_xlabel("accuracy once transformed; dashed: of clean images, dotted: chance")
    return figure


def _draw_accuracy(axes: Axes, audit: Audit, finding: Finding) -> None:
    low, high = (audit.accuracy - bound for bound in reversed(finding.interval))
    reach = [[max(finding.accuracy - low, 0)], [max(high - finding.accuracy, 0)]]
    colour = RED if finding.flagged else MUTED if audit.doubt else BLUE
    axes.barh([0], [finding.accuracy], height=0.6, color=colour, xerr=reach, ecolor=INK, capsize=4)
    axes.axvline(audit.accuracy, color=INK, linestyle="--", linewidth=1)
    axes.axvline(audit.chance, color=MUTED, linestyle=":", linewidth=1.4)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, 0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelbottom=False)
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    flag = "   flagged" if finding.flagged else ""
    change = round(-finding.drop, 2) + 0.0  # no minus before a zero
    told = f"{finding.name.replace('_', ' ')}   {finding.accuracy:.0%}, {change:+.2f} against clean{flag}"
    axes.set_title(told, loc="left", fontsize=10, color=RED if finding.flagged else INK)


def _show(axes: Axes, image: Pixels) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
