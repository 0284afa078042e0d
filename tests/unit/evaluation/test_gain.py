"""What fine-tuning was worth: the probe's figures, the paired difference, and the sentence about both."""

import json
import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from transferline.artifacts import FINE_TUNED, LINEAR_PROBE, Arrays, Candidate, Choice
from transferline.evaluation import gain, paired
from transferline.evaluation.calibration import calibrate

CLASSES = ["a", "b", "c"]


def split(labels: np.ndarray) -> Arrays:
    paths = [f"{row}.png" for row in range(len(labels))]
    return Arrays(np.zeros((len(labels), 1, 2, 2, 3), np.uint8), labels, paths, CLASSES)


def given(labels: np.ndarray, margin: float, seed: int) -> np.ndarray:
    """Logits in which the right classes have `margin` more."""
    members = labels if labels.ndim == 2 else np.eye(3)[labels]
    return (np.random.default_rng(seed).normal(size=members.shape) + margin * (members - 0.5)).astype(np.float32)


def case(multilabel: bool, images: int = 150):
    """The splits, the logits of a probe, and the outcome of a better model."""
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 2, (images, 3)) if multilabel else rng.integers(0, 3, images) for _ in range(2)]
    splits = {"val": split(labels[0]), "test": split(labels[1])}
    probe = {name: given(one.labels, 1.0, seed) for seed, (name, one) in enumerate(splits.items())}
    val, test = (given(one, 4.0, seed) for seed, one in enumerate(labels, 2))
    return splits, probe, calibrate(val, labels[0], test, labels[1], CLASSES)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_gain_is_the_final_figure_less_the_probes(multilabel: bool) -> None:
    splits, probe, final = case(multilabel)
    found = gain.measure(final, probe, splits, 500, seed=3)
    json.dumps(found, allow_nan=False)
    labels = splits["test"].labels
    figures = {
        "accuracy": accuracy_score(labels, final.predicted),
        "macro_f1": f1_score(labels, final.predicted, average="macro"),
    }
    assert set(found["gain"]) == set(figures)
    for name, figure in figures.items():
        one = found["gain"][name]
        assert one["difference"] == pytest.approx(figure - found["probe"][name])
        assert 0 < one["low"] < one["difference"] < one["high"]
        low, high = found["probe"]["intervals"][name]
        assert low < found["probe"][name] < high


def test_the_probe_predicts_its_most_probable_class_and_needs_no_validation() -> None:
    splits, probe, final = case(multilabel=False)
    found = gain.measure(final, {"test": probe["test"]}, splits, 100, seed=3)
    predicted = probe["test"].argmax(axis=1)
    assert found["probe"]["accuracy"] == pytest.approx(np.mean(predicted == splits["test"].labels))
    assert found["probe"]["macro_f1"] == pytest.approx(f1_score(splits["test"].labels, predicted, average="macro"))


def test_thresholds_of_the_probe_are_its_own() -> None:
    """A probe whose logits are all 3 too low answers as well as before."""
    splits, probe, final = case(multilabel=True)
    expected = gain.measure(final, probe, splits, 100, seed=3)["probe"]
    shifted = {name: logits - 3 for name, logits in probe.items()}
    found = gain.measure(final, shifted, splits, 100, seed=3)["probe"]
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"], abs=0.02)
    assert f1_score(splits["test"].labels, shifted["test"] > 0, average="macro") < expected["macro_f1"] - 0.1


def test_intervals_are_those_of_the_paired_bootstrap() -> None:
    splits, probe, final = case(multilabel=False)
    reference = calibrate(probe["val"], splits["val"].labels, probe["test"], splits["test"].labels, CLASSES)
    expected, found = paired.compare(reference, final, 200, seed=5), gain.measure(final, probe, splits, 200, seed=5)
    assert [found["gain"]["accuracy"][end] for end in ("low", "high")] == expected.accuracy_interval
    assert [found["gain"]["macro_f1"][end] for end in ("low", "high")] == expected.macro_f1_interval


def test_the_probe_itself_gains_nothing() -> None:
    splits, probe, _ = case(multilabel=False)
    final = calibrate(probe["val"], splits["val"].labels, probe["test"], splits["test"].labels, CLASSES)
    for one in gain.measure(final, probe, splits, 100, seed=0)["gain"].values():
        assert one == {"difference": 0, "low": 0, "high": 0}


CANDIDATES = [Candidate(LINEAR_PROBE, 0.5, 0.8, 0.7, 0.0, 0.0), Candidate(FINE_TUNED, 0.6, 0.7, 0.6, 0.1, 0.2)]
TUNED = Choice(CANDIDATES, FINE_TUNED, "It is better.", refit=False)


def measured(difference: float, low: float, high: float) -> dict[str, dict[str, float]]:
    return {"macro_f1": {"difference": difference, "low": low, "high": high}}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ((0.06, 0.02, 0.1), "Fine-tuning gained 0.060 macro-F1 over the linear probe .* interval 0.020 to 0.100"),
        ((-0.06, -0.1, -0.02), "Fine-tuning lost 0.060 macro-F1 against the linear probe .* -0.100 to -0.020"),
        ((0.01, -0.02, 0.04), r"no difference beyond chance: \+0.010 macro-F1 against .* -0.020 to 0.040"),
        ((0.01, 0.0, 0.02), "no difference beyond chance"),
        ((0.0, 0.0, 0.0), "no difference beyond chance"),
    ],
)
def test_the_verdict_says_gained_lost_or_no_difference(found: tuple[float, float, float], sentence: str) -> None:
    assert re.search(sentence, gain.verdict(measured(*found), TUNED))


def test_where_the_probe_was_chosen_nothing_is_claimed_for_fine_tuning() -> None:
    chosen = Choice(CANDIDATES, LINEAR_PROBE, "It is simpler.", refit=True)
    assert "was not worth it" in gain.verdict(measured(0.06, 0.02, 0.1), chosen)
    assert "gained 0.060" in gain.verdict(measured(0.06, 0.02, 0.1), TUNED)
