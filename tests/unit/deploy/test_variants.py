"""Variants are made, judged, kept or refused; the preferred one is proved on the test split."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from transferline import seal
from transferline.artifacts import Arrays
from transferline.deploy import bench, export, makers, variants
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.evaluation.variants import Timing

from .conftest import CLASSES, Line, make_deployed, predict

BIAS = "classifier.head.bias"


def stand_in(variant: str, change: Callable[[np.ndarray], np.ndarray] = lambda bias: bias) -> variants.Maker:
    """The fp32 model with another bias; some bytes shorter, for its lineage."""

    def make(source: Path, target: Path) -> Mapping[str, Any]:
        model = onnx.load(source)
        (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == BIAS]
        bias.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(bias)).astype(np.float32), BIAS))
        properties = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, properties | {"variant": variant, "git_commit": "", seal.KEY: seal.BLANK})
        onnx.save(model, target)
        seal.seal(target)
        return {"note": f"a stand-in for {variant}"}

    return make


def failing(error: Exception) -> variants.Maker:
    def make(_: Path, target: Path) -> Mapping[str, Any]:
        target.write_bytes(b"half of it")
        raise error

    return make


SAME = stand_in("fp16")
NEAR = stand_in("fp16", lambda bias: bias + np.array([0.05, 0.0, 0.0]))
WORSE = stand_in("int8", lambda bias: bias + np.array([-1e6, 0.0, 1e6]))


def given(line: Line, fp16: variants.Maker = NEAR, int8: variants.Maker = WORSE, **options: Any) -> variants.Given:
    """The line before the stage, with validation images that the model is right about."""
    images = np.random.default_rng(5).integers(0, 256, (24, 1, 32, 32, 3), dtype=np.uint8)
    probabilities = predict(line.deployed, images[:, 0])
    images.setflags(write=False)  # as they are on disk
    cuts = export.thresholds(line.properties)
    labels = probabilities.argmax(axis=1) if cuts is None else (probabilities >= cuts).astype(np.int64)
    validation = Arrays(images, labels, [f"{row}.png" for row in range(24)], CLASSES)
    settings = line.reference.options.model_copy(update={"latency_repeats": 3, "max_loss": 0.2, **options})
    reference = replace(line.reference, options=settings)
    return variants.Given(line.deployed, line.properties, reference, validation, {"fp16": fp16, "int8": int8}, 42)


def written(reports: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((reports / name).read_text(encoding="utf-8"))
    return content


def test_the_preferred_one_is_the_model_and_refused_ones_leave_no_file(line: Line, tmp_path: Path) -> None:
    model, reports = tmp_path / "onnx" / "model.onnx", tmp_path / "reports"
    judged, verdict = variants.produce(given(line), model, reports)
    assert sorted(file.name for file in model.parent.iterdir()) == ["model.fp16.onnx", "model.onnx"]
    assert Predictor(model).metadata["variant"] == judged.preferred == verdict.variant == "fp32"
    assert Predictor(model.with_name("model.fp16.onnx")).metadata["variant"] == "fp16"
    assert model.read_bytes() == line.model.read_bytes()
    assert (verdict.passed, verdict.agreeing, verdict.reference_difference) == (True, 6, None)
    fp32, fp16, int8 = written(reports, "variants.json")["variants"]
    assert (fp32["refused"], fp16["refused"]) == (None, None)
    assert "on validation is" in int8["refused"]
    assert (fp32["accuracy"], fp32["images"]) == (1.0, 24)
    assert fp16["made"] == {"note": "a stand-in for fp16"}
    assert [(row["provider"], row["batch_size"]) for row in fp16["timings"]] == [("cpu", 1), ("cpu", 8), ("cpu", 32)]
    assert (reports / "variants.png").stat().st_size > 10_000


def test_a_reduced_model_is_proved_by_what_it_is_worth(line: Line, tmp_path: Path) -> None:
    model, reports = tmp_path / "onnx" / "model.onnx", tmp_path / "reports"
    judged, verdict = variants.produce(given(line, prefer="small"), model, reports)
    assert sorted(file.name for file in model.parent.iterdir()) == ["model.fp32.onnx", "model.onnx"]
    assert Predictor(model).metadata["variant"] == judged.preferred == "fp16"
    parity = written(reports, "parity.json")
    assert (parity["variant"], parity["images"], parity["tolerance"]) == ("fp16", 6, None)
    assert parity["max_difference"] > 1e-3 > parity["reference_difference"] > 0
    assert verdict.summary().startswith(f"fp16 answers as evaluate on {parity['agreeing']} of 6 test images")


def test_a_broken_export_cannot_hide_behind_a_reduced_model(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.write_onnx
    broken = make_deployed(mean=0.4)
    monkeypatch.setattr(export, "write_onnx", lambda _, path, opset, about: write(broken, path, opset, about))
    wrong = given(line, SAME, prefer="small", max_loss=1.0, variants=("fp32", "fp16"))
    with pytest.raises(UserError, match="of 24 validation images"):
        variants.produce(wrong, tmp_path / "onnx" / "model.onnx", tmp_path / "reports")
    assert not (tmp_path / "onnx").exists()


def test_only_the_variants_asked_for_are_made(line: Line, tmp_path: Path) -> None:
    variants.produce(given(line, variants=("fp32",)), tmp_path / "onnx" / "model.onnx", tmp_path)
    assert [file.name for file in (tmp_path / "onnx").iterdir()] == ["model.onnx"]
    assert [row["name"] for row in written(tmp_path, "variants.json")["variants"]] == ["fp32"]


def test_what_cannot_be_made_or_gives_no_numbers_costs_no_more_than_itself(line: Line, tmp_path: Path) -> None:
    unmade = failing(RuntimeError("no such operator\nand more of it"))
    numberless = stand_in("int8", lambda bias: bias * np.nan)
    judged, _ = variants.produce(given(line, unmade, numberless), tmp_path / "onnx" / "model.onnx", tmp_path)
    assert judged.refused == {
        "fp16": "it could not be made: RuntimeError: no such operator",
        "int8": "it gives no numbers on 24 of 24 images",
    }
    assert [file.name for file in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_what_cannot_be_run_is_refused_by_its_message_without_passing_names(line: Line, tmp_path: Path) -> None:
    def make(source: Path, target: Path) -> Mapping[str, Any]:
        target.write_bytes(b"no model")
        return {}

    judged, _ = variants.produce(given(line, make), tmp_path / "onnx" / "model.onnx", tmp_path)
    assert judged.refused["fp16"].startswith("it is no ONNX model that runs here")
    assert str(tmp_path) not in judged.refused["fp16"].split(":")[0]


def test_what_crashes_onnxruntime_costs_no_more_than_itself(
    line: Line, tmp_path: Path, crashing_onnxruntime: None
) -> None:
    judged, _ = variants.produce(given(line, SAME, SAME), tmp_path / "onnx" / "model.onnx", tmp_path)
    assert set(judged.refused) == {"fp16", "int8"}
    assert all(reason.startswith("it crashes onnxruntime (exit code ") for reason in judged.refused.values())
    assert [file.name for file in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("error", [UserError("the disk is full", "make room"), OSError(28, "full"), MemoryError()])
def test_what_is_the_machines_fault_is_not_laid_on_a_variant(line: Line, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError, match=r"is full|space|memory"):
        variants.produce(given(line, failing(error)), tmp_path / "onnx" / "model.onnx", tmp_path)
    assert not (tmp_path / "onnx").exists()


def test_label_sets_are_judged_at_their_thresholds(labelled_line: Line, tmp_path: Path) -> None:
    model = tmp_path / "onnx" / "model.onnx"
    judged, verdict = variants.produce(given(labelled_line, prefer="small", max_loss=0.4), model, tmp_path)
    assert (judged.preferred, list(judged.refused)) == ("fp16", ["int8"])
    assert judged.kept[0].paired.accuracy == 1.0
    assert verdict.passed
    assert Predictor(model).thresholds is not None


def test_the_same_is_found_again(line: Line, tmp_path: Path) -> None:
    model, reports = tmp_path / "onnx" / "model.onnx", tmp_path / "reports"
    found = []
    for _ in range(2):
        variants.produce(given(line), model, reports)
        about = written(reports, "variants.json")
        for row in about["variants"]:
            row.pop("timings")
        found.append((about, (reports / "parity.json").read_bytes(), model.read_bytes()))
    assert found[0] == found[1]


def test_wrong_normalisation_is_refused_and_no_model_is_left(line: Line, tmp_path: Path) -> None:
    model, reports = tmp_path / "onnx" / "model.onnx", tmp_path / "reports"
    model.parent.mkdir()
    model.write_bytes(b"an older model")
    wrong = replace(given(line, variants=("fp32",)), deployed=make_deployed(mean=0.4))
    with pytest.raises(UserError, match="of 6 test images") as refused:
        variants.produce(wrong, model, reports)
    assert list(tmp_path.iterdir()) == [reports]
    parity = written(reports, "parity.json")
    assert not parity["passed"]
    worst = parity["mismatches"][0]
    assert worst["path"] in str(refused.value)
    assert worst["difference"] == parity["max_difference"] > 1e-3


def test_models_are_timed_in_turns_at_each_size_of_batch(line: Line) -> None:
    files = {"fp32": line.model, "fp16": line.model}
    timings = bench.measure(files, np.zeros((40, 60, 3), np.uint8), repeats=3)
    for rows in timings.values():
        assert [(row.provider, row.batch_size, len(row.seconds)) for row in rows] == [
            ("cpu", 1, 3),
            ("cpu", 8, 3),
            ("cpu", 32, 3),
        ]
        assert all(isinstance(row, Timing) and row.milliseconds > 0 for row in rows)


def test_batches_give_what_one_call_gives(line: Line) -> None:
    images, predictor = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8), Predictor(line.model)
    found = bench.in_batches(predictor.predict, images, 3, "in threes")
    np.testing.assert_allclose(found, predictor.predict(images), atol=1e-5)  # another batch


def test_calibration_draws_clean_views_of_different_images_by_the_seed() -> None:
    images = np.arange(10, dtype=np.uint8).repeat(2 * 4 * 4 * 3).reshape(10, 2, 4, 4, 3)
    images[:, 1] = 255
    train = Arrays(images, np.zeros(10, np.int64), [""] * 10, CLASSES)
    drawn = makers.drawn(train, 4, seed=1)[:, 0, 0, 0].tolist()
    assert len(set(drawn)) == 4
    assert drawn == sorted(drawn)
    assert drawn == makers.drawn(train, 4, seed=1)[:, 0, 0, 0].tolist()
    assert drawn != makers.drawn(train, 4, seed=2)[:, 0, 0, 0].tolist()
    assert len(makers.drawn(train, 200, seed=1)) == 10
