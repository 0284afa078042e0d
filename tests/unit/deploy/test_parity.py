"""A model that does not do what evaluate reported is refused, and named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline.artifacts import ManifestRow, Predictions
from transferline.deploy import agreement, parity
from transferline.errors import UserError
from transferline.sections import Export

from .conftest import CLASSES, Line

OPTIONS = Export(tolerance=1e-3, tie=1e-4)
EVALUATED = Predictions(
    ["a.png", "b.png"], ["x", "y"], ["x", "y"], np.array([[0.7, 0.3], [0.45, 0.55]], np.float32), ["x", "y"]
)


def _replayed(*offsets: tuple[int, int, float]) -> np.ndarray:
    """evaluate's probabilities at batch 1 and N, but for (batch index, image, shift from x to y)."""
    probabilities = np.stack([EVALUATED.probabilities] * 2)
    for batch, image, shift in offsets:
        probabilities[batch, image] += np.array([-shift, shift], np.float32)
    return probabilities


def test_equal_probabilities_pass() -> None:
    verdict = agreement.compare(_replayed(), EVALUATED, OPTIONS)
    assert verdict.passed
    assert (verdict.images, verdict.max_difference, verdict.mismatches, verdict.ties) == (2, 0.0, [], [])
    verdict.require()


def test_difference_within_tolerance_passes_and_is_reported_per_batch_size() -> None:
    verdict = agreement.compare(_replayed((1, 0, 5e-4)), EVALUATED, OPTIONS)
    assert verdict.passed
    assert verdict.max_difference_batch_1 == 0
    assert verdict.max_difference == verdict.max_difference_batch_n == pytest.approx(5e-4, abs=1e-6)


@pytest.mark.parametrize("batch", [0, 1])
def test_difference_beyond_tolerance_at_either_batch_size_fails(batch: int) -> None:
    verdict = agreement.compare(_replayed((batch, 1, 0.01)), EVALUATED, OPTIONS)
    assert [entry.path for entry in verdict.mismatches] == ["b.png"]
    with pytest.raises(UserError, match=r"1 of 2 test images:\n.*b.png: evaluate y 0.5500, onnx y 0.5600"):
        verdict.require()


def test_worst_images_come_first() -> None:
    verdict = agreement.compare(_replayed((0, 0, 0.01), (1, 1, -0.3)), EVALUATED, OPTIONS)
    assert [(entry.path, entry.onnx_class) for entry in verdict.mismatches] == [("b.png", "x"), ("a.png", "x")]


def test_other_class_within_tolerance_fails_unless_it_is_a_tie() -> None:
    near = replace(EVALUATED, probabilities=np.array([[0.7, 0.3], [0.4998, 0.5002]], np.float32))
    swapped = np.stack([near.probabilities] * 2)
    swapped[1, 1] = [0.5002, 0.4998]
    assert not agreement.compare(swapped, near, OPTIONS).passed
    verdict = agreement.compare(swapped, near, Export(tolerance=1e-3, tie=1e-3))
    assert verdict.passed
    (tie,) = verdict.ties
    assert (tie.path, tie.evaluate_class, tie.onnx_class) == ("b.png", "y", "x")


SETS = Predictions(
    ["a.png", "b.png", "c.png"],
    ["x;y", "", "y"],
    ["x;y", "", "y"],
    np.array([[0.7, 0.9], [0.2, 0.3999], [0.1, 0.8]], np.float32),
    ["x", "y"],
)
CUTS = np.array([0.5, 0.4])


def _compared(*offsets: tuple[int, int, int, float], options: Export = OPTIONS) -> agreement.Parity:
    """The verdict where these shifts (batch index, image, label, shift) are all that differs."""
    probabilities = np.stack([SETS.probabilities] * 2)
    for batch, image, label, shift in offsets:
        probabilities[batch, image, label] += np.float32(shift)
    return agreement.compare(probabilities, SETS, options, CUTS)


def test_equal_label_sets_pass() -> None:
    verdict = _compared()
    assert (verdict.passed, verdict.max_difference, verdict.ties) == (True, 0.0, [])


def test_another_set_within_tolerance_fails_unless_evaluate_was_at_the_threshold() -> None:
    options = Export(tolerance=1e-3, tie=5e-5)
    refused = _compared((1, 1, 1, 4e-4), options=options)
    (entry,) = refused.mismatches
    assert (entry.path, entry.evaluate_class, entry.onnx_class) == ("b.png", "", "y")
    assert (entry.evaluate_probability, entry.onnx_probability) == pytest.approx((0.3999, 0.4003), abs=1e-6)
    with pytest.raises(UserError, match=r"b.png: evaluate \(no label\) 0.3999, onnx y 0.4003"):
        refused.require()
    allowed = _compared((1, 1, 1, 4e-4), options=Export(tolerance=1e-3, tie=2e-4))
    assert allowed.passed
    assert [tie.path for tie in allowed.ties] == ["b.png"]


def test_a_difference_of_any_label_beyond_tolerance_fails_though_the_set_is_the_same() -> None:
    verdict = _compared((0, 2, 0, 0.01))
    assert [(entry.path, entry.onnx_class) for entry in verdict.mismatches] == [("c.png", "y")]
    assert verdict.mismatches[0].onnx_probability == pytest.approx(0.11)


def test_label_sets_of_the_file_are_replayed(labelled_line: Line) -> None:
    assert parity.verify(labelled_line.model, labelled_line.reference).passed
    predictions = labelled_line.reference.predictions
    emptied = replace(predictions, predicted=["" if name else CLASSES[0] for name in predictions.predicted])
    verdict = parity.verify(labelled_line.model, replace(labelled_line.reference, predictions=emptied))
    assert len(verdict.mismatches) == len(predictions.paths)


def test_not_a_number_fails() -> None:
    broken = _replayed()
    broken[1, 0] = np.nan
    verdict = agreement.compare(broken, EVALUATED, OPTIONS)
    assert not verdict.passed
    json.dumps(verdict.mismatches[0].difference, allow_nan=False)


def _reduced(replayed: np.ndarray, **options: float) -> agreement.Parity:
    return agreement.compare(replayed, EVALUATED, Export(**options), variant="int8")


def test_probabilities_of_a_reduced_variant_may_differ() -> None:
    verdict = _reduced(_replayed((0, 0, 0.15), (1, 0, 0.15)))
    assert verdict.passed
    assert (verdict.agreeing, verdict.tolerance, verdict.mismatches) == (2, None, [])
    assert verdict.summary() == (
        "int8 answers as evaluate on 2 of 2 test images (probabilities within 0.15; "
        "accuracy 1.0000 and evaluate's 1.0000, macro-F1 1.0000 and 1.0000)"
    )


def test_a_reduced_variant_is_refused_for_what_it_loses_and_its_mismatches_are_listed_either_way() -> None:
    changed = _replayed((1, 1, -0.2))  # y becomes x, in a batch alone
    refused, allowed = _reduced(changed, max_loss=0.6), _reduced(changed, max_loss=0.7)
    assert (refused.passed, allowed.passed) == (False, True)
    assert [entry.path for entry in refused.mismatches] == [entry.path for entry in allowed.mismatches] == ["b.png"]
    assert (refused.agreeing, refused.accuracy, refused.evaluate_accuracy) == (1, 0.5, 1.0)
    assert refused.macro_f1 == pytest.approx(1 / 3)
    with pytest.raises(UserError, match=r"int8 ONNX model is not worth.*accuracy 0.5000 and evaluate's 1.0000") as told:
        refused.require()
    assert "export.prefer" in str(told.value)


def test_a_reduced_variant_may_be_better_than_evaluate() -> None:
    mistaken = replace(EVALUATED, labels=["x", "x"])
    verdict = agreement.compare(_replayed((0, 1, -0.2), (1, 1, -0.2)), mistaken, Export(max_loss=0.0), variant="fp16")
    assert verdict.passed
    assert (verdict.accuracy, verdict.evaluate_accuracy, verdict.agreeing) == (1.0, 0.5, 1)


def test_a_reduced_variant_that_gives_no_numbers_is_refused() -> None:
    broken = _replayed()
    broken[:, 0] = np.nan
    assert not _reduced(broken, max_loss=1.0).passed


def test_label_sets_of_a_reduced_variant_count_as_a_whole() -> None:
    probabilities = np.stack([SETS.probabilities] * 2)
    probabilities[:, 0, 0] -= np.float32(0.3)  # x;y becomes y
    verdict = agreement.compare(probabilities, SETS, Export(), CUTS, "int8")
    assert (verdict.accuracy, verdict.evaluate_accuracy) == (pytest.approx(2 / 3), 1.0)
    assert not verdict.passed


def test_batches_hold_images_of_one_size_and_few_of_large_ones() -> None:
    sides = {"a": (8, 8), "b": (8, 9), "c": (8, 8), "d": (8, 8), "e": (5000, 5000), "f": (5000, 5000)}
    rows = [ManifestRow(path, "", "test", "", "", 0, width, height) for path, (height, width) in sides.items()]
    found = [[row.path for row in batch] for batch in parity.batches(rows, batch_size=2)]
    assert found == [["a", "c"], ["d"], ["b"], ["e"], ["f"]]


def test_test_split_is_replayed_from_the_files(line: Line) -> None:
    verdict = parity.verify(line.model, line.reference)
    assert verdict.passed
    assert verdict.images == 6


def test_image_that_changed_since_prepare_is_named(line: Line, tmp_path: Path) -> None:
    row = ManifestRow("x.png", "rot", "test", "", "", 0, 10, 12)
    Image.new("RGB", (10, 11)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png has changed"):
        parity.decode(tmp_path, row)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"x\.png: not an image"):
        parity.decode(tmp_path, row)


def test_predictions_of_another_split_or_of_other_classes_are_refused(line: Line) -> None:
    fewer = replace(line.reference, rows=line.reference.rows[:-1])
    with pytest.raises(UserError, match="test split"):
        parity.verify(line.model, fewer)
    renamed = replace(line.reference.predictions, classes=["a", "b", "c"])
    with pytest.raises(UserError, match="classes"):
        parity.verify(line.model, replace(line.reference, predictions=renamed))
