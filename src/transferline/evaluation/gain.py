"""What fine-tuning was worth: the final model against the linear probe, on the same test images."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sklearn.metrics import accuracy_score, f1_score

from transferline.artifacts import LINEAR_PROBE, Arrays, Choice, SplitName
from transferline.evaluation import paired
from transferline.evaluation.bootstrap import bootstrap_intervals
from transferline.evaluation.calibration import Logits, calibrate, softmax
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.outcome import DIGITS, Outcome

PROBE = "the linear probe on frozen features"


def measure(
    final: Outcome, logits: Mapping[SplitName, Logits], splits: Mapping[SplitName, Arrays], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """`probe` and `gain` of metrics.json: the probe's figures, and the final model's less the probe's.

    The 95 % intervals of the differences are paired: each bootstrap resample is of images, with both models' answers.

    Args:
        final: of the images of `splits["test"]`, row by row.
        logits: of the probe, [N, C] for `test`; in multi-label data for `val`, too, to tune its thresholds on.
    """
    probe = _outcome(logits, splits)
    intervals = bootstrap_intervals(probe.cells(), resamples, seed)
    figures = {
        "accuracy": accuracy_score(probe.labels, probe.predicted),
        "macro_f1": f1_score(probe.labels, probe.predicted, average="macro", zero_division=0),
    }
    found = asdict(paired.compare(probe, final, resamples, seed))
    gain = {}
    for name in paired.FIGURES:
        low, high = found[f"{name}_interval"]
        gain[name] = {"difference": found[f"{name}_difference"], "low": low, "high": high}
    return {
        "probe": {
            **{name: round(float(value), DIGITS) for name, value in figures.items()},
            "intervals": {name: intervals[name] for name in paired.FIGURES},
        },
        "gain": gain,
    }


def _outcome(logits: Mapping[SplitName, Logits], splits: Mapping[SplitName, Arrays]) -> Outcome:
    """The probe's. Its temperature changes no prediction, and is left at 1 where thresholds do not depend on it."""
    val, test = splits["val"], splits["test"]
    if test.multilabel:
        return calibrate(logits["val"], val.labels, logits["test"], test.labels, test.classes)
    probabilities = softmax(logits["test"])
    return Multiclass(test.labels, probabilities, probabilities, 1.0, test.classes)


def verdict(gain: Mapping[str, Mapping[str, float]], choice: Choice) -> str:
    """One sentence on whether fine-tuning was worth it, from `gain` of metrics.json and what finetune chose."""
    difference, low, high = (gain["macro_f1"][name] for name in ("difference", "low", "high"))
    interval = f"(95 % interval {low:.3f} to {high:.3f})"
    if choice.chosen == LINEAR_PROBE:
        return f"Fine-tuning was not worth it: on validation it was no better than {PROBE}, which was chosen."
    if low > 0:
        return f"Fine-tuning gained {difference:.3f} macro-F1 over {PROBE} {interval}."
    if high < 0:
        return f"Fine-tuning lost {-difference:.3f} macro-F1 against {PROBE} {interval}."
    return f"Fine-tuning made no difference beyond chance: {difference:+.3f} macro-F1 against {PROBE} {interval}."
