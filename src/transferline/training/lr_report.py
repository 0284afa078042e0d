"""The loss over the learning rate: smoothed, read, written down and drawn."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferline.artifacts import atomic, write_csv, write_json
from transferline.errors import UserError
from transferline.on_demand import LrFind

NAME = "lr_find"  # of the files
_REACH = 4  # standard deviations of the kernel that are counted in
_LEAST_FALL = 0.05  # of the loss, as a share: less is noise

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """What to make of the curve.

    Attributes:
        lr: where the smoothed loss falls fastest with the logarithm of the rate (fastai's `steep`).
        minimum: where it is lowest; too high a rate to train with.
        tenth: a tenth of that (fastai's `minimum`).
        low, high: a range to search, up to the minimum: a schedule that rises and falls, as onecycle, stands more than
            a constant rate does (Smith and Topin 2017, arXiv 1708.07120).
    """

    lr: float
    minimum: float
    tenth: float
    low: float
    high: float

    def line(self) -> str:
        """What to write into params.yaml."""
        return (
            f"tune.start.lr: {self.lr:g} and tune.search.lr: {{low: {self.low:g}, high: {self.high:g}, log: true}}"
            f" (the loss is lowest at {self.minimum:g})"
        )


def kernel(options: LrFind) -> Floats:
    """The half of a Gaussian, from its middle on, in steps."""
    width = options.smoothing * options.steps
    return np.exp(-0.5 * (np.arange(int(_REACH * width) + 1) / width) ** 2)


@dataclass(frozen=True)
class Curve:
    """One loss a step.

    Attributes:
        rates: float64 [n], rising; n is less than `options.steps` where the loss diverged.
        losses: float64 [n]; the last may not be finite.
    """

    rates: Floats
    losses: Floats
    options: LrFind

    @property
    def diverged(self) -> bool:
        return len(self.rates) < self.options.steps

    def points(self) -> list[tuple[int, dict[str, float]]]:
        """Step, and the figures that a run logs at it; without those that are not finite."""
        rows = enumerate(zip(self.rates.tolist(), self.losses.tolist(), strict=True))
        return [(step, {"lr": rate, "loss": loss}) for step, (rate, loss) in rows if np.isfinite(loss)]

    def smoothed(self) -> Floats:
        """float64 [n], a mean over neighbours, weighted by a Gaussian: unlike a running mean it does not lag behind."""
        half = kernel(self.options)
        whole, count = np.concatenate([half[:0:-1], half]), len(self.losses)
        finite = np.isfinite(self.losses)
        sums, weights = (
            np.convolve(values, whole)[len(half) - 1 :][:count]
            for values in (np.where(finite, self.losses, 0.0), finite.astype(np.float64))
        )
        return sums / np.maximum(weights, np.finfo(np.float64).tiny)

    def suggestion(self) -> Suggestion | None:
        """None where the loss never fell."""
        smoothed = self.smoothed()
        lowest = int(smoothed.argmin())
        if lowest < 2 or smoothed[lowest] > (1 - _LEAST_FALL) * smoothed[0]:
            return None
        slopes = np.gradient(smoothed[: lowest + 1], np.log(self.rates[: lowest + 1]))
        steep, minimum = float(self.rates[slopes.argmin()]), float(self.rates[lowest])
        tenth = minimum / 10
        return Suggestion(*map(_round, (steep, minimum, tenth, min(steep, tenth), minimum)))

    def required(self) -> Suggestion:
        """Raises UserError where the loss never fell."""
        found = self.suggestion()
        if found is None:
            raise UserError(
                f"lr_find: the loss did not fall between {self.rates[0]:g} and {self.rates[-1]:g}, so that no rate"
                " can be suggested",
                "raise lr_find.max_lr or lr_find.steps, or lower tune.start.freeze_depth",
            )
        return found


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")


def write(curve: Curve, about: dict[str, object], folder: Path) -> None:
    """lr_find.json, .csv and .png in `folder`; `about` is what the test was made with."""
    found = curve.suggestion()
    summary = {**about, **curve.options.model_dump(mode="json"), "steps_made": len(curve.rates)}
    summary |= {"stopped_early": curve.diverged, "suggestion": asdict(found) if found else None}
    write_json(folder / f"{NAME}.json", summary)
    rows = enumerate(zip(curve.rates, curve.losses, curve.smoothed(), strict=True))
    cells = ([step, *(f"{value:.8g}" for value in row)] for step, row in rows)
    write_csv(folder / f"{NAME}.csv", ["step", "lr", "loss", "smoothed"], cells)
    _draw(curve, found, folder / f"{NAME}.png")


def _draw(curve: Curve, found: Suggestion | None, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, color="#8a94a0", linewidth=0.8, alpha=0.7, label="loss of a step")
    smoothed = curve.smoothed()
    axes.plot(curve.rates, smoothed, color="#2f6394", linewidth=2, label="smoothed")
    if found:
        axes.axvline(found.lr, color="#c0492f", linewidth=1.5, label=f"steepest: {found.lr:g}")
        axes.axvline(found.tenth, color="#5aa469", linewidth=1.5, label=f"minimum / 10: {found.tenth:g}")
        axes.axvspan(found.low, found.high, color="#8a94a0", alpha=0.15, label="a range to search")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * min(curve.options.diverged * smoothed.min(), smoothed.max()))
    axes.set_xlabel("learning rate of the head (logarithmic)")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})
