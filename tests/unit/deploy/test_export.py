"""The exported graph is the torch module, on images of any size."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.unit.model import menu
from transferline.data.preprocess import Fit, Resize
from transferline.deploy import export
from transferline.model import classifier

from .conftest import CLASSES, THRESHOLDS, Line, make_card, make_deployed, predict

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]

SIZES = {
    "landscape": (41, 67),
    "portrait": (75, 38),
    "square": (53, 53),
    "small": (13, 9),
    "line": (1, 50),
    "large": (601, 1023),
}


def test_graph_agrees_with_torch_on_images_of_any_size(line: Line) -> None:
    for name, images, (found, _) in _run(line.model):
        np.testing.assert_allclose(found, predict(line.deployed, images), atol=1e-5, err_msg=name)


def test_graph_agrees_with_torch_where_the_head_sees_earlier_blocks(tmp_path: Path) -> None:
    plain = menu.make("small_cnn", 32)
    net = classifier.rebuild(plain, replace(plain.card, taps=[1, 3]), 0)
    width, generator = net.head.mean.shape, torch.Generator().manual_seed(1)
    net.head.standardise(torch.rand(width, generator=generator), torch.rand(width, generator=generator) + 0.5)
    deployed = export.Deployed(net, net.card, 1.3).eval()
    export.write_onnx(deployed, tmp_path / "model.onnx", 20, {})
    spreads = []
    for name, images, (_, logits) in _run(tmp_path / "model.onnx"):
        with torch.inference_mode():
            expected = deployed(torch.from_numpy(images))[1].numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
        spreads.append(float(np.ptp(expected, axis=0).max()))
    assert max(spreads) > 0.01, "images are told apart"


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_pixels_in_the_graph_are_those_of_the_arrays_to_the_last_bit(resize: Fit, tmp_path: Path) -> None:
    model, card = tmp_path / "model.onnx", replace(make_card(resize), input_size=40)
    export.write_onnx(export.Deployed(nn.Flatten(), card, 1.0), model, 20, {})
    for name, images, (_, pixels) in _run(model):
        expected = Resize(40, resize)(torch.from_numpy(images)).flatten(1)
        np.testing.assert_array_equal(pixels, expected, err_msg=name)


def _run(model: Path) -> Iterator[tuple[str, Images, tuple[Floats, Floats]]]:
    """Noise of every size through the graph: its name, the images, and both outputs."""
    session, rng = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]), np.random.default_rng(1)
    for name, (height, width) in SIZES.items():
        for batch in (1, 3):
            images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
            yield f"{name}, batch {batch}", images, session.run(None, {"images": images})


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
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(), atol=1e-5)


def test_label_sets_leave_the_graph_through_a_sigmoid(labelled_line: Line) -> None:
    session = onnxruntime.InferenceSession(labelled_line.model, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    probabilities, logits = session.run(["probabilities", "logits"], {"images": image})
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits / 1.7)), atol=1e-5)
    for name, images, (found, _) in _run(labelled_line.model):
        np.testing.assert_allclose(found, predict(labelled_line.deployed, images), atol=1e-5, err_msg=name)


def test_file_says_how_its_answers_are_to_be_read(line: Line, labelled_line: Line) -> None:
    assert line.properties["task"] == "multiclass"
    assert "thresholds" not in line.properties
    assert labelled_line.properties["task"] == "multilabel"
    assert json.loads(labelled_line.properties["thresholds"]) == [THRESHOLDS[name] for name in CLASSES]


def test_thresholds_belong_to_label_sets_alone() -> None:
    with pytest.raises(AssertionError, match="label sets"):
        export.metadata(make_card(), 1.7, export.Lineage("", "", ""), THRESHOLDS)


def test_equal_models_are_equal_bytes_in_one_file_without_paths_of_this_machine(line: Line, tmp_path: Path) -> None:
    again = tmp_path / "model.onnx"
    export.write_onnx(line.deployed, again, 20, line.properties)
    assert again.read_bytes() == line.model.read_bytes()
    assert list(tmp_path.iterdir()) == [again]
    assert b"stack_trace" not in again.read_bytes()
