"""The gate: thresholds, parity, and the present champion on the same test split."""

import math

import pytest

from transferline.artifacts import ManifestRow
from transferline.evaluation import gate
from transferline.sections import Register

LIMITS = Register(min_macro_f1=0.9, max_ece=0.1)
METRICS = {"macro_f1": 0.95, "ece": 0.2, "ece_calibrated": 0.05}
PARITY = {"passed": True, "variant": "fp32", "images": 300, "max_difference": 2.5e-5, "mismatches": []}
REDUCED = PARITY | {
    "variant": "int8",
    "agreeing": 298,
    "max_difference": 0.125,
    "mismatches": ["a.jpg", "b.jpg"],
    "accuracy": 0.9867,
    "macro_f1": 0.975,
    "evaluate_accuracy": 0.99,
    "evaluate_macro_f1": 0.98,
    "max_loss": 0.01,
}
SPLIT = "a" * 64


def judge(metrics=METRICS, parity=PARITY, champion=None):
    return gate.judge(LIMITS, metrics, parity, champion, SPLIT)


def champion(macro_f1: float, split: str = SPLIT) -> gate.Champion:
    return gate.Champion("3", gate.version_tags({"macro_f1": macro_f1, "ece_calibrated": 0.0}, "fp32", split, "b" * 64))


def test_a_good_model_passes_with_its_figures_as_reasons():
    verdict = judge()
    assert verdict.passed
    assert verdict.reasons == [
        "Macro-F1 on test is 0.9500, at least the 0.9 asked for.",
        "The calibration error is 0.0500, within the 0.1 allowed.",
        "The ONNX file agrees with evaluate on all 300 test images, within 2.5e-05 of probability.",
    ]
    assert verdict.notes == ["No version holds the alias champion, so there was none to compare with."]


def test_limits_themselves_pass():
    assert judge({"macro_f1": 0.9, "ece_calibrated": 0.1}).passed


def test_every_failing_figure_is_a_reason():
    parity = PARITY | {"passed": False, "max_difference": 0.25, "mismatches": ["a.jpg", "b.jpg"]}
    verdict = judge({"macro_f1": 0.8, "ece_calibrated": 0.2}, parity, champion(0.99))
    assert not verdict.passed
    assert verdict.reasons == [
        "Macro-F1 on test is 0.8000, under the 0.9 asked for.",
        "The calibration error is 0.2000, over the 0.1 allowed.",
        "The ONNX file differs from evaluate on 2 of 300 test images, by up to 0.25.",
        "Macro-F1 on test is 0.8000, worse than the 0.9900 of version 3.",
    ]


def test_of_a_reduced_variant_it_is_said_how_many_images_agree_and_what_is_lost():
    *_, sentence = judge(parity=REDUCED).reasons
    assert sentence == (
        "The int8 ONNX file answers as evaluate on 298 of 300 test images, its probabilities within 0.12; accuracy "
        "0.9867 against 0.9900, macro-F1 0.9750 against 0.9800: within the 0.01 that it may lose."
    )
    verdict = judge(parity=REDUCED | {"passed": False})
    assert not verdict.passed
    assert "not within the 0.01" in verdict.reasons[0]


def test_the_file_that_is_deployed_is_what_the_gate_judges():
    assert gate.deployed(METRICS, REDUCED)["macro_f1"] == pytest.approx(0.945)
    assert not judge(gate.deployed({**METRICS, "macro_f1": 0.904}, REDUCED), REDUCED).passed
    assert gate.deployed(METRICS, REDUCED | {"variant": "fp32"}) == METRICS
    assert gate.deployed(METRICS, REDUCED | {"macro_f1": 0.99}) == METRICS


@pytest.mark.parametrize("key", ["macro_f1", "ece_calibrated"])
def test_a_figure_that_is_not_a_number_is_refused(key):
    verdict = judge({**METRICS, key: math.nan})
    assert not verdict.passed
    assert len(verdict.reasons) == 1
    assert "nan" in verdict.reasons[0]


@pytest.mark.parametrize(("macro_f1", "passed"), [(0.95, True), (math.nextafter(0.95, 1), False), (0.5, True)])
def test_the_alias_moves_to_a_model_that_is_no_worse(macro_f1, passed):
    assert judge(champion=champion(macro_f1)).passed is passed


def test_a_champion_of_another_test_split_is_not_compared_with():
    verdict = judge(champion=champion(0.99, split="c" * 64))
    assert verdict.passed
    assert verdict.notes == ["Version 3 was measured on another test split and was not compared with."]


def test_a_champion_that_somebody_named_by_hand_is_not_compared_with():
    assert judge(champion=gate.Champion("7", {})).passed


def row(path: str, split: str = "test", label: str = "cat", sha256: str = "d") -> ManifestRow:
    return ManifestRow(path, label, split, sha256, "0" * 16, 0, 8, 8)


def test_identity_of_the_test_split_ignores_order_and_other_splits():
    identity = gate.test_split_identity([row("a"), row("b")])
    assert gate.test_split_identity([row("b"), row("a"), row("c", split="train")]) == identity


@pytest.mark.parametrize("other", [row("b"), row("a", label="dog"), row("a", sha256="e")])
def test_identity_of_the_test_split_changes_with_an_image_or_label(other):
    assert gate.test_split_identity([other]) != gate.test_split_identity([row("a")])
