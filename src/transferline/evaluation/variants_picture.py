"""The forms of an exported model as a picture: accuracy over latency, and size as the area of the mark."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from transferline.evaluation.pictures import BLUE, INK, MUTED, RED, save
from transferline.evaluation.variants import Judged, Measured, Timing

_AREA = 1400.0  # of the largest file, in square points
_BESIDE = (((0, 36), "center"), ((0, -36), "center"), ((24, 0), "left"))  # names, where marks may lie side by side
_LINE = 100  # characters of a reason to a panel, before it is broken


def write(judged: Judged, path: Path) -> None:
    save(draw(judged), path)


def draw(judged: Judged) -> Figure:
    """A panel for each provider: those kept are filled, those refused hollow, with the reason below."""
    measured = [one for one in judged.results if isinstance(one, Measured)]
    providers = list(dict.fromkeys(timing.provider for timing in measured[0].timings))
    figure = Figure(figsize=(1.6 + 6.4 * len(providers), 5.6), layout="constrained")
    panels = figure.subplots(1, len(providers), sharey=True, squeeze=False)[0]
    for axes, provider in zip(panels, providers, strict=True):
        _draw_provider(axes, judged, measured, provider)
    panels[0].set_ylabel("accuracy on validation; bars: 95 % of the difference from fp32", color=INK)
    figure.suptitle("Forms of the exported model (area: size of the file)", color=INK, fontsize=13)
    notes = [f"{name}: refused: {reason}" for name, reason in judged.refused.items()]
    if notes:
        figure.supxlabel(
            "\n".join(textwrap.fill(note, _LINE * len(providers)) for note in notes), fontsize=9, color=RED
        )
    return figure


def _draw_provider(axes: Axes, judged: Judged, measured: Sequence[Measured], provider: str) -> None:
    largest, base = max(one.size for one in measured), measured[0].paired.accuracy
    for one, (offset, aligned) in zip(measured, _BESIDE, strict=False):
        timings = [timing for timing in one.timings if timing.provider == provider]
        if not timings:
            continue
        smallest = min(timings, key=lambda timing: timing.batch_size)
        colour = MUTED if one.name in judged.refused else BLUE
        place = (smallest.milliseconds, one.paired.accuracy)
        low, high = (base + end for end in one.paired.accuracy_interval)
        axes.vlines(place[0], low, high, color=colour, linewidth=1)
        face = "white" if one.name in judged.refused else colour
        axes.scatter(*place, s=_AREA * one.size / largest, color=face, edgecolors=colour, linewidths=1.5, alpha=0.8)
        text = _named(judged, one, timings)
        axes.annotate(text, place, offset, textcoords="offset points", ha=aligned, va="center", fontsize=9, color=INK)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.margins(x=0.35, y=0.45)
    axes.set_yticks([tick for tick in axes.get_yticks()[1:-1] if tick < 1 + 1e-9])
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"ms for one raw image on this machine's {provider} (logarithmic)", color=INK)


def _named(judged: Judged, one: Measured, timings: Sequence[Timing]) -> str:
    """What stands beside a mark."""
    best = max(timing.throughput for timing in timings)
    fate = " (preferred)" if one.name == judged.preferred else " (refused)" if one.name in judged.refused else ""
    return f"{one.name}{fate}\n{one.size / 1e6:.1f} MB, {best:.0f} images/s"
