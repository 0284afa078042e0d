"""The forms of an exported model side by side: which are refused, which one is preferred, and the picture of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from transferline.artifacts import write_json
from transferline.evaluation.paired import FIGURES, Paired
from transferline.sections import REFERENCE

NOISE = 0.05  # medians that differ by a smaller share are the same


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed run of a batch."""

    provider: str
    batch_size: int
    seconds: list[float]

    @property
    def milliseconds(self) -> float:
        """The median, of the whole batch."""
        return 1000 * median(self.seconds)

    @property
    def throughput(self) -> float:
        """Images a second."""
        return 1000 * self.batch_size / self.milliseconds


@dataclass(frozen=True)
class Measured:
    """What one variant is worth.

    Attributes:
        size: of the file, in bytes.
        paired: it beside fp32 on the validation split.
        timings: of a raw image, for each provider and size of batch; those of the provider that is taken by itself come
            first.
        made: how it was made.
    """

    name: str
    size: int
    paired: Paired
    timings: list[Timing]
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usual(self) -> list[Timing]:
        """On the provider that is taken where none is asked for."""
        return [timing for timing in self.timings if timing.provider == self.timings[0].provider]

    @property
    def latency(self) -> float:
        """Milliseconds of the smallest batch."""
        return min(self.usual, key=lambda timing: timing.batch_size).milliseconds

    @property
    def throughput(self) -> float:
        """Images a second of the best batch."""
        return max(timing.throughput for timing in self.usual)


@dataclass(frozen=True)
class Failed:
    """A variant that could not be made, or gives no numbers, and why."""

    name: str
    reason: str


Result = Measured | Failed


@dataclass(frozen=True)
class Judged:
    """The verdict on every variant, fp32 first.

    Attributes:
        refused: the reason, by the name of the variant.
        preferred: one of those that were kept.
    """

    results: list[Result]
    refused: dict[str, str]
    preferred: str

    @property
    def kept(self) -> list[Measured]:
        return [one for one in self.results if isinstance(one, Measured) and one.name not in self.refused]

    def lines(self) -> list[str]:
        """One for each variant, for the terminal."""
        return [f"{one.name}: {_line(one)}{self._fate(one.name)}" for one in self.results]

    def metrics(self) -> dict[str, float]:
        """By the names that a run logs them under."""
        named: dict[str, float] = {}
        for one in self.results:
            named[f"{one.name}_kept"] = float(one.name not in self.refused)
            if isinstance(one, Measured):
                named |= {f"{one.name}_{key}": value for key, value in _figures(one).items()}
        return named

    def _fate(self, name: str) -> str:
        if name in self.refused:
            return f"refused: {self.refused[name]}"
        return "preferred" if name == self.preferred else "kept"


def judge(results: Sequence[Result], prefer: str, max_loss: float) -> Judged:
    """Refuse what loses too much or earns nothing, and prefer one of the rest.

    Args:
        results: fp32 first; it is never refused.
        prefer: a name of RULES.
        max_loss: of accuracy or macro-F1 on validation, against fp32.
    """
    reference = results[0]
    assert isinstance(reference, Measured), "fp32 can be made"
    assert reference.name == REFERENCE, "the others are held against fp32"
    refused = {one.name: reason for one in results[1:] if (reason := refusal(one, reference, max_loss))}
    judged = Judged(list(results), refused, REFERENCE)
    return Judged(judged.results, refused, RULES[prefer](judged.kept).name)


def refusal(candidate: Result, reference: Measured, max_loss: float) -> str | None:
    """Why a variant is not kept: it could not be made, is worse by more than `max_loss`, or neither smaller nor faster.

    Faster is one whose median latency is lower by more than `NOISE` at one size of batch on one provider.
    """
    if isinstance(candidate, Failed):
        return candidate.reason
    paired, base = candidate.paired, reference.paired
    for word, value, difference, before in (
        ("accuracy", paired.accuracy, paired.accuracy_difference, base.accuracy),
        ("macro-F1", paired.macro_f1, paired.macro_f1_difference, base.macro_f1),
    ):
        if -difference > max_loss:
            return f"{word} on validation is {value:.4f} and was {before:.4f}, a loss over the {max_loss:g} allowed"
    if candidate.size < reference.size or _faster(candidate, reference):
        return None
    sizes = f"{_megabytes(candidate.size)} against {_megabytes(reference.size)}"
    return f"it is neither smaller than fp32 ({sizes}) nor faster by {NOISE:.0%} at any size of batch"


def _faster(candidate: Measured, reference: Measured) -> bool:
    before = {(timing.provider, timing.batch_size): timing.milliseconds for timing in reference.timings}
    return any(
        timing.milliseconds < (1 - NOISE) * before[timing.provider, timing.batch_size] for timing in candidate.timings
    )


def _accurate(kept: Sequence[Measured]) -> Measured:
    """The least loss, the first of equals: fp32."""
    return min(kept, key=lambda one: one.paired.loss)


def _balanced(kept: Sequence[Measured]) -> Measured:
    """The best throughput among those that are not worse than fp32 beyond chance; the least loss of equals."""
    unhurt = [one for one in kept if not one.paired.worse]
    best = max(one.throughput for one in unhurt)
    return _accurate([one for one in unhurt if one.throughput >= (1 - NOISE) * best])


def _fast(kept: Sequence[Measured]) -> Measured:
    """The lowest latency of one image; the least loss of equals."""
    best = min(one.latency for one in kept)
    return _accurate([one for one in kept if one.latency <= (1 + NOISE) * best])


def _small(kept: Sequence[Measured]) -> Measured:
    """The smallest file, the first of equals."""
    return min(kept, key=lambda one: one.size)


RULES: Mapping[str, Callable[[Sequence[Measured]], Measured]] = {
    "accurate": _accurate,
    "balanced": _balanced,
    "fast": _fast,
    "small": _small,
}


def write(judged: Judged, about: Mapping[str, Any], path: Path) -> None:
    """Everything as JSON, raw times included; `about` is what all of them have in common."""
    rows = [{**_row(one), "refused": judged.refused.get(one.name)} for one in judged.results]
    write_json(path, {**about, "noise": NOISE, "preferred": judged.preferred, "variants": rows})


def _row(one: Result) -> dict[str, Any]:
    if isinstance(one, Failed):
        return {"name": one.name}
    medians = [{"median_ms": timing.milliseconds, "images_per_second": timing.throughput} for timing in one.timings]
    timings = [asdict(timing) | extra for timing, extra in zip(one.timings, medians, strict=True)]
    about = {"name": one.name, "bytes": one.size, "made": dict(one.made), "timings": timings}
    return about | asdict(one.paired)


def _figures(one: Measured) -> dict[str, float]:
    values: dict[str, float] = {"bytes": one.size, "accuracy": one.paired.accuracy, "macro_f1": one.paired.macro_f1}
    if one.name != REFERENCE:
        values |= {name: value for name, value in asdict(one.paired).items() if isinstance(value, int | float)}
        for name in FIGURES:
            low, high = getattr(one.paired, f"{name}_interval")
            values |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    for timing in one.timings:
        where = f"{timing.provider}_batch_{timing.batch_size}"
        values |= {f"{where}_ms": timing.milliseconds, f"{where}_images_per_second": timing.throughput}
    return values


def _line(one: Result) -> str:
    if isinstance(one, Failed):
        return ""
    paired = one.paired
    against = f" ({paired.accuracy_difference:+.4f}, p {paired.p_value:.2g})" if one.name != REFERENCE else ""
    agrees = f"agrees on {paired.agreement:.2%}, " if one.name != REFERENCE else ""
    return (
        f"{_megabytes(one.size)}, accuracy {paired.accuracy:.4f}{against}, macro-F1 {paired.macro_f1:.4f}, {agrees}"
        f"{one.latency:.1f} ms an image, {one.throughput:.0f} images/s; "
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
