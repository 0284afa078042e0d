"""The pictures of the evaluation, each a matplotlib Figure, and the table behind one of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which takes three seconds to import
from matplotlib.ticker import PercentFormatter

from transferline.artifacts import atomic, write_csv
from transferline.evaluation.calibration import Reliability
from transferline.evaluation.outcome import Curve, Floats, Labels, Outcome

INK, MUTED, BLUE, RED = "#1f2933", "#8a94a0", "#2f6394", "#c0492f"
LABEL_LENGTH = 26  # characters of a class name that a picture has room for
NONE = "no label"
NUMBERED_CLASSES = 30  # a confusion matrix of more classes is shown by colour alone
NAMED_CURVES = 10  # of more classes, only the worst curves are named


class Words(NamedTuple):
    """What the axes of the reliability diagrams are called."""

    stated: str
    true: str
    mean: str
    counted: str


IMAGES = Words("confidence (probability of the predicted class)", "accuracy", "mean confidence", "images")
DECISIONS = Words("probability of a label", "share that has it", "mean probability", "images x labels")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without the name of its writer, so that equal figures are equal bytes."""
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})


def write_confusion_csv(outcome: Outcome, path: Path) -> None:
    """The pairs that `dvc plots show` counts into a matrix.

    It writes them into a script, which a label with `</script>` would leave: a backslash keeps it in.
    """
    rows = ([re.sub(r"<(?=[/!])", r"<\\", name) for name in pair] for pair in outcome.confusion_rows())
    write_csv(path, ["actual", "predicted"], rows)


def draw_confusion(counts: Labels, classes: Sequence[str]) -> Figure:
    """Counts as numbers, shares of the actual class as colour. `counts` is int64 [C, C]."""
    side = float(np.clip(3 + 0.55 * len(classes), 4.6, 13))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names, font = [short(name) for name in classes], 10 if len(classes) <= 20 else 6
    straight = len(classes) <= 4
    axes.set_xticks(
        range(len(names)),
        names,
        fontsize=font,
        rotation=0 if straight else 45,
        ha="center" if straight else "right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(names)), names, fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(classes) <= NUMBERED_CLASSES:
        _write_counts(axes, counts, shares)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the actual class")
    bar.outline.set_visible(False)
    _title(axes, "Confusion matrix, test split", "predicted", "actual")
    return figure


def _write_counts(axes: Axes, counts: Labels, shares: Floats) -> None:
    font = 12 if len(counts) <= 10 else 8
    for (row, column), count in np.ndenumerate(counts):
        colour = MUTED if count == 0 else "white" if shares[row, column] > 0.55 else INK
        weight = "bold" if row == column else "normal"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=font, fontweight=weight)


def draw_tallies(tallies: Labels, classes: Sequence[str]) -> Figure:
    """Per label, a bar of what was found and what was missed, and one of false alarms; `tallies` is int64 [C, 3]."""
    height = float(np.clip(1.8 + 0.42 * len(classes), 3.2, 30))
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    places, (found, missed, false) = np.arange(len(classes)), tallies.T
    bars = (
        (found, 0, BLUE, f"found ({found.sum()})"),
        (missed, found, MUTED, f"missed ({missed.sum()})"),
        (false, found + missed, RED, f"false alarms ({false.sum()})"),
    )
    for counts, left, colour, label in bars:
        axes.barh(places, counts, left=left, height=0.7, color=colour, label=label)
    for place, row in zip(places, tallies, strict=True):
        text = " · ".join(map(str, row))
        axes.annotate(text, (row.sum(), place), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    axes.set_yticks(places, [short(name) for name in classes])
    axes.invert_yaxis()
    axes.set_xlim(0, max(tallies.sum(axis=1).max(), 1) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    axes.set_xlabel("images", color=INK)
    figure.suptitle("What was found of each label, test split", color=INK, fontsize=13)
    return figure


def draw_reliability(before: Reliability, after: Reliability, temperature: float, words: Words = IMAGES) -> Figure:
    """What came true over what was stated before and after temperature scaling, above how often each occurs."""
    figure = Figure(figsize=(9.4, 5.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
    figure.suptitle("Reliability, test split", color=INK, fontsize=13)
    titles = ("before temperature scaling", f"after (temperature {temperature:.3f})")
    for column, (bins, title) in enumerate(zip((before, after), titles, strict=True)):
        _draw_bins(grid[0, column], bins, words, f"{title}\nECE {bins.error:.4f}")
        width = 1 / len(bins.counts)
        grid[1, column].bar(_centres(bins), bins.counts / bins.counts.sum(), width=0.94 * width, color=MUTED)
        grid[1, column].set_xlabel(words.stated)
        grid[1, column].spines[["top", "right"]].set_visible(False)
        grid[1, column].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid[0, 0].set_ylabel(words.true)
    grid[1, 0].set_ylabel(words.counted)
    return figure


def _draw_bins(axes: Axes, bins: Reliability, words: Words, title: str) -> None:
    filled, width = bins.counts > 0, 0.94 / len(bins.counts)
    centres, accuracy, confidence = _centres(bins)[filled], bins.accuracy[filled], bins.confidence[filled]
    axes.bar(centres, accuracy, width=width, color=BLUE, alpha=0.75, label=words.true)
    axes.hlines(confidence, centres - width / 2, centres + width / 2, color=RED, linewidth=2.5, label=words.mean)
    axes.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=INK, label="perfectly calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_title(title, color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _centres(bins: Reliability) -> Floats:
    return (np.arange(len(bins.counts)) + 0.5) / len(bins.counts)


def draw_pr_curves(curves: Sequence[Curve]) -> Figure:
    """Precision over recall of each class against the rest; the worst come first in the legend."""
    if not curves:
        return message("no precision-recall curve: the test split holds a single class")
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    ranked = sorted(curves, key=lambda curve: curve.average_precision)
    for curve in ranked[NAMED_CURVES:]:
        axes.step(curve.recall, curve.precision, where="post", color=MUTED, linewidth=0.6, alpha=0.6)
    for curve, colour in zip(ranked, mpl.color_sequences["tab10"], strict=False):
        label = f"{curve.average_precision:.4f}  {short(curve.name)}"
        if curve.mark:
            label += f" (cut at {curve.mark.threshold:.2f})"
            axes.plot(curve.mark.recall, curve.mark.precision, "o", color=colour, markeredgecolor=INK, clip_on=False)
        axes.step(curve.recall, curve.precision, where="post", color=colour, linewidth=1.8, label=label)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    which = "worst classes" if len(curves) > NAMED_CURVES else "class"
    axes.legend(title=f"average precision, {which}", frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    _title(axes, "Precision and recall, test split", "recall", "precision")
    return figure


def message(text: str) -> Figure:
    figure = Figure(figsize=(8, 1.6))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK, fontsize=13)
    return figure


def _title(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, color=INK, fontsize=13, pad=12)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def short(name: str, length: int = LABEL_LENGTH) -> str:
    """A class name cut to what fits, with its dollar signs kept from being read as mathematics."""
    cut = name if len(name) <= length else name[: length - 1] + "…"
    return cut.replace("$", r"\$")
