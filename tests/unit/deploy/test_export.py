"""The exported graph is the torch module, on images of any size."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from transferline.deploy import export

from .conftest import CLASSES, Line, make_deployed, predict

ODD_SIZES = {"landscape": (41, 67), "portrait": (75, 38), "square": (53, 53), "small": (13, 9), "line": (1, 50)}


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_graph_agrees_with_torch_on_images_of_any_size(resize: str, tmp_path: Path) -> None:
    deployed, rng = make_deployed(resize), np.random.default_rng(1)
    export.write_onnx(deployed, tmp_path / "model.onnx", 20, {})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for name, (height, width) in ODD_SIZES.items():
        for batch in (1, 3):
            images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
            (found,) = session.run(["probabilities"], {"images": images})
            np.testing.assert_allclose(found, predict(deployed, images), atol=5e-4, err_msg=f"{name}, batch {batch}")


def test_ways_to_make_an_image_square_differ() -> None:
    image = np.random.default_rng(2).integers(0, 256, (1, 41, 67, 3), dtype=np.uint8)
    squash, crop, pad = (predict(make_deployed(resize), image) for resize in ("squash", "crop", "pad"))
    assert min(np.abs(squash - crop).max(), np.abs(squash - pad).max(), np.abs(crop - pad).max()) > 0.01


def test_file_follows_the_contract(line: Line) -> None:
    session = onnxruntime.InferenceSession(line.model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    outputs = [(output.name, output.type) for output in session.get_outputs()]
    assert outputs == [("probabilities", "tensor(float)"), ("logits", "tensor(float)")]
    assert onnx.load(line.model).opset_import[0].version == 20


def test_file_describes_itself(line: Line) -> None:
    session = onnxruntime.InferenceSession(line.model, providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["classes"]) == CLASSES
    assert (json.loads(found["mean"]), json.loads(found["std"])) == ([0.5] * 3, [0.25] * 3)
    assert (found["backbone"], found["input_size"], found["resize"]) == ("tiny", "32", "squash")
    assert (found["git_commit"], found["manifest_sha256"], found["mlflow_run_id"]) == ("c0ffee", "5ha", "run")
    assert float(found["temperature"]) == 1.7


def test_temperature_divides_the_logits(line: Line) -> None:
    session = onnxruntime.InferenceSession(line.model, providers=["CPUExecutionProvider"])
    image = np.full((1, 40, 40, 3), 200, dtype=np.uint8)
    probabilities, logits = session.run(["probabilities", "logits"], {"images": image})
    scaled = np.exp(logits / 1.7)
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(), atol=1e-6)


def test_equal_models_are_equal_bytes_in_one_file_without_paths_of_this_machine(line: Line, tmp_path: Path) -> None:
    again = tmp_path / "model.onnx"
    export.write_onnx(line.deployed, again, 20, line.properties)
    assert again.read_bytes() == line.model.read_bytes()
    assert list(tmp_path.iterdir()) == [again]
    assert b"stack_trace" not in again.read_bytes()
