"""The gate before the registry's alias: thresholds, parity, and the present champion."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transferline.artifacts import ManifestRow
from transferline.evaluation.outcome import DIGITS
from transferline.sections import REFERENCE, Register


@dataclass(frozen=True)
class Champion:
    """The version that holds the alias, with the tags that `version_tags` gave it."""

    version: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """Whether a model may take the alias.

    Attributes:
        reasons: sentences with the figures: what speaks against it or, where it passed, for it.
        notes: what could not be judged.
    """

    passed: bool
    reasons: list[str]
    notes: list[str]


def test_split_identity(rows: Iterable[ManifestRow]) -> str:
    """Hex digest of the test images and their labels: equal only where figures can be compared."""
    lines = sorted(f"{row.path}\0{row.label}\0{row.sha256}\n" for row in rows if row.split == "test")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def deployed(metrics: Mapping[str, Any], parity: Mapping[str, Any]) -> dict[str, Any]:
    """evaluate's metrics, with the macro-F1 of the exported file: what a variant other than fp32 loses is taken off."""
    lost = max(0.0, parity["evaluate_macro_f1"] - parity["macro_f1"]) if parity["variant"] != REFERENCE else 0.0
    return {**metrics, "macro_f1": round(metrics["macro_f1"] - lost, DIGITS) if lost else metrics["macro_f1"]}


def version_tags(metrics: Mapping[str, Any], variant: str, test_split: str, onnx_sha256: str) -> dict[str, str]:
    """What later candidates are compared with, kept as tags of the registered version."""
    return {
        "variant": variant,
        "macro_f1": repr(float(metrics["macro_f1"])),
        "ece": repr(float(metrics["ece_calibrated"])),
        "test_split": test_split,
        "onnx_sha256": onnx_sha256,
    }


def judge(
    limits: Register,
    metrics: Mapping[str, Any],
    parity: Mapping[str, Any],
    champion: Champion | None,
    test_split: str,
) -> Verdict:
    """Pass a model that meets every limit and is no worse than the champion on the same test split.

    Args:
        metrics: of evaluate, from `deployed`; `macro_f1` and `ece_calibrated` are read. NaN meets no limit.
        parity: of export.
        champion: None where no version holds the alias.
        test_split: from `test_split_identity`.
    """
    findings = [_macro_f1(limits, metrics), _calibration(limits, metrics), _parity(parity)]
    notes = []
    if champion is None:
        notes.append(f"No version holds the alias {limits.alias}, so there was none to compare with.")
    elif champion.tags.get("test_split") != test_split:
        notes.append(f"Version {champion.version} was measured on another test split and was not compared with.")
    else:
        findings.append(_no_worse(metrics, champion))
    passed = all(met for met, _ in findings)
    return Verdict(passed, [sentence for met, sentence in findings if met == passed], notes)


def _macro_f1(limits: Register, metrics: Mapping[str, Any]) -> tuple[bool, str]:
    value, limit = float(metrics["macro_f1"]), limits.min_macro_f1
    met = value >= limit
    return met, f"Macro-F1 on test is {value:.4f}, {_side(met, value, 'at least', 'under')} the {limit:g} asked for."


def _calibration(limits: Register, metrics: Mapping[str, Any]) -> tuple[bool, str]:
    value, limit = float(metrics["ece_calibrated"]), limits.max_ece
    met = value <= limit
    return met, f"The calibration error is {value:.4f}, {_side(met, value, 'within', 'over')} the {limit:g} allowed."


def _parity(parity: Mapping[str, Any]) -> tuple[bool, str]:
    images, worst = parity["images"], f"{parity['max_difference']:.2g}"
    if parity["variant"] != REFERENCE:
        return bool(parity["passed"]), _reduced(parity, worst)
    if parity["passed"]:
        return True, f"The ONNX file agrees with evaluate on all {images} test images, within {worst} of probability."
    differing = len(parity["mismatches"])
    return False, f"The ONNX file differs from evaluate on {differing} of {images} test images, by up to {worst}."


def _reduced(parity: Mapping[str, Any], worst: str) -> str:
    """Of a variant whose probabilities may differ from evaluate's."""
    accuracy, macro_f1 = (
        f"{parity[name]:.4f} against {parity['evaluate_' + name]:.4f}" for name in ("accuracy", "macro_f1")
    )
    return (
        f"The {parity['variant']} ONNX file answers as evaluate on {parity['agreeing']} of {parity['images']} test "
        f"images, its probabilities within {worst}; accuracy {accuracy}, macro-F1 {macro_f1}: "
        f"{'within' if parity['passed'] else 'not within'} the {parity['max_loss']:g} that it may lose."
    )


def _no_worse(metrics: Mapping[str, Any], champion: Champion) -> tuple[bool, str]:
    value, best = float(metrics["macro_f1"]), float(champion.tags["macro_f1"])
    met = value >= best
    side = _side(met, value, "no worse than", "worse than")
    return met, f"Macro-F1 on test is {value:.4f}, {side} the {best:.4f} of version {champion.version}."


def _side(met: bool, value: float, good: str, bad: str) -> str:
    return "which cannot be compared with" if math.isnan(value) else good if met else bad
