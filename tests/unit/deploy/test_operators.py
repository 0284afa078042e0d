"""The exported graph is one that onnxruntime, OpenVINO and TensorRT all take.

test_every_backbone asks the same of every network.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from torch import nn

from transferline.data.preprocess import Fit
from transferline.deploy import export, reduced
from transferline.deploy.operators import multiply_first
from transferline.deploy.predictor import Predictor

from . import tensorrt
from .conftest import Line, TinyClassifier, make_card
from .engines import OpenVino

SIZES = [(1, 32, 32), (3, 250, 250), (2, 61, 47), (1, 1, 1), (1, 9, 300), (2, 600, 800)]
TOLERANCE = 5e-4  # of a probability, where one pixel in 3,072 may be a grey level off; 8e-5 seen
OPSETS: dict[Fit, int] = {"squash": 20, "crop": 18, "pad": 23}


@pytest.fixture(scope="module")
def models(line: Line, labelled_line: Line, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each way to make an image square, of operator sets old and new, and one of label sets."""
    made = {"squash": line.model, "labels": labelled_line.model}
    for resize in ("crop", "pad"):
        made[resize] = tmp_path_factory.mktemp("engines") / "model.onnx"
        deployed = export.Deployed(TinyClassifier(), make_card(resize), 1.7)
        export.write_onnx(deployed, made[resize], OPSETS[resize], line.properties)
    return made


@pytest.mark.parametrize("name", ["squash", "crop", "pad", "labels"])
def test_openvino_gives_what_onnxruntime_gives(name: str, models: dict[str, Path]) -> None:
    predictor, engine = Predictor(models[name], threads=1), OpenVino(models[name])
    for shape in SIZES:
        images = _noise(*shape)
        found = engine(images)[0]
        np.testing.assert_allclose(found, predictor.predict(images), atol=TOLERANCE, rtol=0, err_msg=str(shape))


def test_openvino_resizes_to_the_same_pixels_but_for_a_few_grey_levels(tmp_path: Path) -> None:
    """It computes float64 as float32, and divides by reciprocals: 0 to 4 pixels in 100,000 are a level off."""
    model = tmp_path / "model.onnx"
    deployed = export.Deployed(nn.Flatten(), replace(make_card(), input_size=224), 1.0)
    export.write_onnx(deployed, model, 20, {})
    engine, exact = OpenVino(model), onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 1), (2, 224, 224), (2, 250, 250), (2, 448, 448), (1, 1080, 1920)):
        images = _noise(*shape)
        off = np.abs(engine(images)[1] - exact.run(["logits"], {"images": images})[0])
        assert off.max() <= 1, f"{shape}: {off.max()} grey levels"
        assert np.count_nonzero(off) <= 2e-4 * off.size, f"{shape}: {np.count_nonzero(off)} pixels of {off.size}"


@pytest.mark.parametrize("name", ["squash", "crop", "pad", "labels"])
def test_tensorrt_has_every_operator_for_its_types(name: str, models: dict[str, Path]) -> None:
    assert tensorrt.refused(models[name]) == []
    assert {node.domain for node in onnx.load(models[name]).graph.node} == {""}


def test_tensorrt_takes_fp16_and_symmetric_int8_alone(line: Line, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    reduced.write_fp16(line.model, tmp_path / "fp16.onnx")
    assert tensorrt.refused(tmp_path / "fp16.onnx") == []
    for symmetric, lacking in ((True, set()), (False, {"DequantizeLinear of UINT8"})):
        target = tmp_path / f"{symmetric}.onnx"
        reduced.write_int8(
            line.model, target, images, max_loss=1.0, trials=1, batch_size=4, progress=_silent, symmetric=symmetric
        )
        assert set(tensorrt.refused(target)) == lacking


def test_the_only_thing_done_with_bytes_is_to_cast_them(models: dict[str, Path]) -> None:
    for path in models.values():
        graph = onnx.load(path).graph
        assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]
        assert graph.node[0].op_type == "Cast"


def test_what_tensorrt_lacks_is_found(tmp_path: Path) -> None:
    """As the resize had it before, and as onnxruntime's own optimiser would write it."""
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", 3]) for name in ("x", "y")]
    axes = helper.make_tensor_value_info("axes", TensorProto.INT64, [1])
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.INT64),
        helper.make_node("Clip", ["b", "zero"], ["c"]),
        helper.make_node("ReduceSum", ["c", "axes"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.UINT8),
    ]
    zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
    graph = helper.make_graph(nodes, "wrong", [ends[0], axes], [ends[1]], [zero])
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "wrong.onnx")
    assert tensorrt.refused(tmp_path / "wrong.onnx") == [
        "domain com.microsoft",
        "opset 25",
        "Identity of UINT8",
        "Clip of INT64",
        "ReduceSum over axes that are no initializer",
    ]


@pytest.mark.parametrize(
    ("order", "others", "operators"),
    [
        ((1, 0, 2), False, ["MatMul", "Transpose"]),
        ((1, 0, 2), True, ["Transpose", "MatMul", "Transpose", "Neg"]),  # which another node takes, too
        ((2, 1, 0, 3), False, ["MatMul", "Transpose"]),
        ((0, 2, 1), False, ["Transpose", "MatMul"]),  # whose last axis is another after it
    ],
)
def test_weights_multiply_before_a_transposition(order: tuple[int, ...], others: bool, operators: list[str]) -> None:
    rng = np.random.default_rng(0)
    shape, weights = (*(2, 5, 7)[: len(order) - 1], 5), rng.random((5, 4), dtype=np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=order),
        helper.make_node("MatMul", ["turned", "w"], ["y"], "multiply"),
        *([helper.make_node("Neg", ["turned"], ["z"], "negate")] if others else []),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(order)) for name in "yz"[: 1 + others]
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = {"x": rng.random(shape, dtype=np.float32)}
    exact = _run(model, images)
    multiply_first(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == operators
    for found, expected in zip(_run(model, images), exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def _run(model: onnx.ModelProto, images: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, images)


def _silent(sequence: Iterable[Any], description: str) -> Iterable[Any]:
    return sequence


def _noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
