"""Backbones side by side: the table, the picture of accuracy against latency, and which of them is best."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from transferline.artifacts import write_csv, write_json
from transferline.evaluation.pictures import BLUE, INK, MUTED, save
from transferline.model.linear_probe import interval

NAME = "backbones"  # of the files


@dataclass(frozen=True)
class Measured:
    """What one backbone is worth here, frozen.

    Attributes:
        accuracy, macro_f1: of a linear probe, fold by fold.
        parameters: of the whole classifier.
        input_size: side in pixels.
        feature_dim: numbers an image that the probe sees.
        latency_ms: of the deployed graph, for one raw image; the fastest of some runs.
        latency_batch_ms: the same for an image of a batch.
        device: that latency was measured on.
        seconds: that all this took.
    """

    name: str
    accuracy: list[float]
    macro_f1: list[float]
    parameters: int
    input_size: int
    feature_dim: int
    latency_ms: float
    latency_batch_ms: float
    device: str
    seconds: float

    def about(self) -> dict[str, object]:
        """What a run logs as parameters."""
        return {name: getattr(self, name) for name in ("name", "input_size", "feature_dim", "device")}

    def metrics(self) -> dict[str, float]:
        """By the names that a run logs them under."""
        accuracy, low, high = interval(self.accuracy)
        return {
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": interval(self.macro_f1)[0],
            "parameters": self.parameters,
            "latency_ms": self.latency_ms,
            "latency_batch_ms": self.latency_batch_ms,
            "seconds": self.seconds,
        }

    def line(self) -> str:
        scores = self.metrics()
        return (
            f"accuracy {scores['accuracy']:.4f} ({scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}),"
            f" macro-F1 {scores['macro_f1']:.4f}, {self.latency_ms:.1f} ms an image"
        )


@dataclass(frozen=True)
class Skipped:
    """A backbone that could not be compared, and why."""

    name: str
    reason: str

    def about(self) -> dict[str, object]:
        return {"name": self.name, "skipped": self.reason}

    def metrics(self) -> dict[str, float]:
        return {}

    def line(self) -> str:
        return f"skipped: {self.reason}"


Result = Measured | Skipped


def ranked(results: Sequence[Result]) -> list[Measured]:
    """The most accurate first; the faster one of two that are equally accurate."""
    measured = [row for row in results if isinstance(row, Measured)]
    return sorted(measured, key=lambda row: (-row.metrics()["accuracy"], row.latency_ms))


def front(measured: Sequence[Measured]) -> list[Measured]:
    """Those that no other one is both more accurate and faster than (the Pareto front), the fastest first."""
    kept: list[Measured] = []
    for row in sorted(measured, key=lambda row: (row.latency_ms, -row.metrics()["accuracy"])):
        if not kept or row.metrics()["accuracy"] > kept[-1].metrics()["accuracy"]:
            kept.append(row)
    return kept


def table(results: Sequence[Result], batch_size: int) -> tuple[list[str], list[list[str]]]:
    """Heading and rows for a terminal, the best first; > before a name aligns its column to the right."""
    best = front(ranked(results))
    columns = ["backbone", ">accuracy", "95 %", ">macro-F1", ">ms, 1 image", f">ms, {batch_size} images, each"]
    columns += [">parameters", ">pixels", ">seconds", "note"]
    rows = []
    for row in ranked(results):
        scores = row.metrics()
        span = f"{scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
        cells = [row.name, f"{scores['accuracy']:.4f}", span, f"{scores['macro_f1']:.4f}"]
        cells += [f"{row.latency_ms:.1f}", f"{row.latency_batch_ms:.1f}", f"{row.parameters / 1e6:.2f} M"]
        rows.append([*cells, str(row.input_size), f"{row.seconds:.0f}", "Pareto front" if row in best else ""])
    blank = [""] * (len(columns) - 2)
    return columns, rows + [[row.name, *blank, row.line()] for row in results if isinstance(row, Skipped)]


def write(results: Sequence[Result], about: dict[str, Any], folder: Path) -> None:
    """backbones.json, .csv and .png in `folder`.

    Args:
        results: one of them measured, at least.
        about: what all of them have in common.
        folder: may not exist yet.
    """
    measured = ranked(results)
    skipped = [asdict(row) for row in results if isinstance(row, Skipped)]
    on_front = {row.name for row in front(measured)}
    rows = [
        asdict(row)
        | {
            "metrics": row.metrics(),
            "macro_f1_interval": interval(row.macro_f1)[1:],
            "pareto": row.name in on_front,
        }
        for row in measured
    ]
    write_json(folder / f"{NAME}.json", {**about, "best": measured[0].name, NAME: rows, "skipped": skipped})
    names = ("name", *measured[0].metrics(), "input_size", "feature_dim")
    cells = ([(asdict(row) | row.metrics())[name] for name in names] for row in measured)
    write_csv(folder / f"{NAME}.csv", names, cells)
    save(draw(measured), folder / f"{NAME}.png")


def draw(measured: Sequence[Measured]) -> Figure:
    """Accuracy with its 95 % interval over latency; those on the Pareto front are filled and joined."""
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    best = front(measured)
    for row in measured:
        mean, low, high = interval(row.accuracy)
        colour = BLUE if row in best else MUTED
        axes.errorbar(
            row.latency_ms,
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt="o",
            color=colour,
            markerfacecolor=colour if row in best else "white",
            elinewidth=1,
            capsize=3,
        )
        axes.annotate(
            row.name,
            (row.latency_ms, mean),
            xytext=(7, 5),
            textcoords="offset points",
            color=INK,
            fontsize=9,
        )
    line = [(row.latency_ms, row.metrics()["accuracy"]) for row in best]
    axes.step(*zip(*line, strict=True), where="post", color=BLUE, linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(x=0.2)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("A linear probe on frozen features, cross-validated on train", color=INK, fontsize=13, pad=12)
    axes.set_xlabel(f"ms for one raw image, ONNX on this machine's {measured[0].device} (logarithmic)", color=INK)
    axes.set_ylabel("accuracy, 95 % interval", color=INK)
    return figure
