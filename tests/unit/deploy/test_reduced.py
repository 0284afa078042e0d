"""fp16 and int8 versions of the exported graph: the same model, but for rounding."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from tests.contract.closure import ROOT
from tests.unit.model import menu
from transferline import seal
from transferline.deploy import export, partition, reduced, survival
from transferline.deploy.predictor import Predictor
from transferline.deploy.reduced import Reduced

from .conftest import THRESHOLDS, Line, make_card
from .networks import BODIES, Fragile, Tiny, exported
from .test_every_backbone import BREAKERS

T = TypeVar("T")
SIDE = make_card().input_size


def silent(sequence: Iterable[T], description: str) -> Iterable[T]:
    assert description
    return sequence


def noise(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Coloured noise, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, side, side, 3)) * rng.random((count, 1, 1, 3)) * 256).astype(np.uint8)


def quantized(source: Path, target: Path, images: np.ndarray, max_loss: float = 1.0, trials: int = 1) -> Reduced:
    return reduced.write_int8(source, target, images, max_loss=max_loss, trials=trials, batch_size=4, progress=silent)


def computed(path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Probabilities and logits."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})


def error(path: Path, other: Path, images: np.ndarray) -> float:
    """Of the logits, relative to how much they vary from image to image."""
    exact, found = computed(path, images)[1], computed(other, images)[1]
    return float(np.sqrt(np.square(found - exact).mean() / exact.var(axis=0).mean()))


def kinds(model: ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def both(source: Path, folder: Path, images: np.ndarray) -> dict[str, Path]:
    paths = {"fp16": folder / "fp16.onnx", "int8": folder / "int8.onnx"}
    reduced.write_fp16(source, paths["fp16"])
    quantized(source, paths["int8"], images)
    return paths


def test_a_reduced_file_is_sealed_says_what_it_is_and_is_the_same_otherwise(line: Line, tmp_path: Path) -> None:
    exact = Predictor(line.model)
    for variant, path in both(line.model, tmp_path, noise(8)).items():
        found = Predictor(path)
        assert found.metadata.pop("variant") == variant
        assert found.metadata.pop(seal.KEY) != exact.metadata[seal.KEY]
        own = {"variant", seal.KEY}
        assert found.metadata == {key: value for key, value in exact.metadata.items() if key not in own}
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        assert not seal.intact(path), "the seal is the new file's own"
        ends = [(end.name, end.type.tensor_type.elem_type) for end in _ends(onnx.load_from_string(content))]
        assert ends == [(end.name, end.type.tensor_type.elem_type) for end in _ends(onnx.load(line.model))]


def _ends(model: ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_preprocessing_and_softmax_are_left_alone(resize: str, tmp_path: Path) -> None:
    source = exported(Tiny(), tmp_path, resize)
    model = onnx.load(source)
    parts = partition.parts(model)
    assert {node.op_type for node in parts.after} == {"Div", "Softmax"}
    assert next(node.op_type for node in parts.network.graph.node) == "Conv"
    for path in both(source, tmp_path, noise(8)).values():
        nodes = {node.name: node for node in onnx.load(path).graph.node}
        for node in (*parts.before, *parts.after):
            assert nodes[node.name] == node
        for height, width in ((20, 61), (1, 1), (90, 33)):
            assert error(source, path, noise(6, 90)[:, :height, :width]) < 0.2


def test_the_parts_put_together_are_the_model(line: Line) -> None:
    model = onnx.load(line.model)
    parts = partition.parts(model)
    again = parts.joined(parts.network)
    onnx.checker.check_model(again, full_check=True)
    images = noise(3, 45)
    for exact, found in zip(*(_session(each).run(None, {"images": images}) for each in (model, again)), strict=True):
        np.testing.assert_array_equal(found, exact)


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_constant_of_both_sides_is_kept_exact_where_it_was(tmp_path: Path) -> None:
    """The converter to half precision changes constants in place."""
    source = exported(Tiny(), tmp_path)
    model = onnx.load(source)
    parts = partition.parts(model)
    constant = next(tensor.name for tensor in parts.network.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    first = model.graph.node.add()  # takes the weights of the network's first layer before it
    first.CopyFrom(onnx.helper.make_node("ReduceMax", [constant], ["unused"], name="unused", keepdims=0))
    onnx.save(model, source)
    reduced.write_fp16(source, tmp_path / "fp16.onnx")
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "fp16.onnx").graph.initializer}
    assert types[constant] == TensorProto.FLOAT
    assert error(source, tmp_path / "fp16.onnx", noise(4)) < 0.01


def test_fp16_computes_the_layers_in_half_precision(line: Line, tmp_path: Path) -> None:
    done = reduced.write_fp16(line.model, tmp_path / "fp16.onnx")
    assert (done.kept_in_float, done.tried, done.loss) == ([], 0, None)
    layers = partition.weighted(onnx.load(line.model).graph)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "fp16.onnx").graph.initializer}
    assert {types[name] for node in layers for name in node.input[1:]} == {TensorProto.FLOAT16}
    exact, found = computed(line.model, noise(8)), computed(tmp_path / "fp16.onnx", noise(8))
    # Half precision rounds by 2**-11 the input, weights and output of both layers, and the pooling.
    np.testing.assert_allclose(found[1], exact[1], rtol=0, atol=7 * 2**-11 * np.abs(exact[1]).max())
    np.testing.assert_allclose(found[0].sum(axis=1), 1, atol=1e-6)  # which half precision would not
    assert np.abs(found[1] - exact[1]).max() > 0, "it is another model"


def test_int8_is_of_standard_operators_with_weights_that_no_cpu_overflows(line: Line, tmp_path: Path) -> None:
    """Two products of uint8 and seven bits fit in 16 bits, in which AVX2 adds them."""
    done = quantized(line.model, tmp_path / "int8.onnx", noise(12))
    assert (done.kept_in_float, done.tried, done.note) == ([], 1, "2 of 2 layers are in int8")
    model = onnx.load(tmp_path / "int8.onnx")
    assert model.opset_import == onnx.load(line.model).opset_import
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8 and tensor.dims]
    of_layers = [numpy_helper.to_array(tensor).astype(int) for tensor in weights if len(tensor.dims) > 1]
    assert [values.shape for values in of_layers] == [(4, 3, 3, 3), (3, 64)]
    assert all(60 <= np.abs(values).max() <= 64 for values in of_layers)
    scales = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    per_channel = [list(scales[node.input[1]]) for node in kinds(model, "DequantizeLinear") if scales[node.input[1]]]
    assert per_channel == [[4], [3]]
    assert not any(tensor.data_type == TensorProto.INT32 for tensor in model.graph.initializer), "no TensorRT takes it"
    assert kinds(model, "Gemm")[0].output[0] == "logits", "which are not rounded to 256 levels"
    assert 0 < error(line.model, tmp_path / "int8.onnx", noise(30, seed=1)) < 0.15


def test_symmetric_int8_has_no_zero_points(line: Line, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    reduced.write_int8(
        line.model, target, noise(8), max_loss=1, trials=1, batch_size=4, progress=silent, symmetric=True
    )
    model = onnx.load(target)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    points = [values[node.input[2]] for node in kinds(model, "QuantizeLinear") + kinds(model, "DequantizeLinear")]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert error(line.model, target, noise(30, seed=1)) < 0.15


def test_equal_inputs_are_equal_bytes_in_every_process(line: Line, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", noise(12))
    code = (
        "import sys; from pathlib import Path; import numpy as np; from transferline.deploy import reduced;"
        "source, folder = Path(sys.argv[1]), Path(sys.argv[2]);"
        "reduced.write_fp16(source, folder / 'fp16.onnx');"
        "reduced.write_int8(source, folder / 'int8.onnx', np.load(folder.parent / 'images.npy'), max_loss=-1, trials=2,"
        " batch_size=5, progress=lambda sequence, description: sequence)"
    )
    digests = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        command = [sys.executable, "-W", "error", "-c", code, str(line.model), str(tmp_path / seed)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        digests.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / seed).iterdir()}
        )
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"fp16.onnx", "int8.onnx"}


def test_the_tools_of_onnxruntime_are_silent_and_leave_nothing(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, root = tmp_path / "temporary", logging.getLogger()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    before = root.handlers[:], root.filters[:], root.level
    both(line.model, tmp_path, noise(4))
    assert (root.handlers, root.filters, root.level) == before
    assert capfd.readouterr() == ("", "")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", list(BODIES))
def test_every_kind_of_layer_survives_in_both_engines(name: str, tmp_path: Path) -> None:
    body, layers = BODIES[name]
    torch.manual_seed(2)
    source = exported(Tiny(body()), tmp_path)
    images = noise(24)
    exact = computed(source, images)[1]
    for variant, path in both(source, tmp_path, images).items():
        survival.require(path)  # a crash would take this process along
        assert error(source, path, images) < {"fp16": 0.02, "int8": 0.25}[variant]
        engine = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        difference = np.square(engine(images)[1] - exact).mean() / exact.var(axis=0).mean()
        assert difference**0.5 < {"fp16": 0.02, "int8": 0.25}[variant]
    assert len(partition.weighted(onnx.load(source).graph)) == layers
    quantizing = [node.op_type for node in _taking_int8(onnx.load(path))]
    assert len([kind for kind in quantizing if kind in partition.WEIGHTED]) == layers
    assert not set(quantizing) & {"Softmax", "LayerNormalization"}


def _taking_int8(model: ModelProto) -> list[onnx.NodeProto]:
    """The nodes whose weights come out of int8."""
    constants = {tensor.name for tensor in model.graph.initializer}
    made = {node.output[0] for node in kinds(model, "DequantizeLinear") if node.input[0] in constants}
    return [node for node in model.graph.node if not made.isdisjoint(node.input)]


def test_the_layer_that_int8_ruins_is_found_and_kept_in_float(tmp_path: Path) -> None:
    torch.manual_seed(2)
    source = exported(Tiny(Fragile()), tmp_path)
    images = noise(40)
    plain = quantized(source, tmp_path / "plain.onnx", images)
    assert plain.loss is not None
    assert plain.loss > 0.3
    done = quantized(source, tmp_path / "int8.onnx", images, max_loss=0.05, trials=4)
    assert (done.kept_in_float, done.tried) == (["body.second"], 2)
    assert done.loss is not None
    assert done.loss <= 0.05
    assert done.note == "4 of 5 layers are in int8"
    found, exact = (computed(path, images)[1] for path in (tmp_path / "int8.onnx", source))
    assert np.mean(found.argmax(1) != exact.argmax(1)) == pytest.approx(done.loss), "of the file itself"


def test_without_a_good_candidate_the_best_is_written_and_said_so(tmp_path: Path) -> None:
    torch.manual_seed(2)
    source = exported(Tiny(Fragile()), tmp_path)
    done = quantized(source, tmp_path / "int8.onnx", noise(40), max_loss=-1, trials=3)
    assert done.tried == 3
    assert "body.second" in done.kept_in_float
    assert "none of 3 candidates lost at most -1 on the calibration images" in done.note
    assert seal.intact(tmp_path / "int8.onnx")


def test_in_multi_label_data_the_loss_is_of_decisions_at_the_thresholds(labelled_line: Line, tmp_path: Path) -> None:
    images = noise(200)
    done = quantized(labelled_line.model, tmp_path / "int8.onnx", images)
    cuts = np.array(list(THRESHOLDS.values()))
    exact, found = (computed(path, images)[0] >= cuts for path in (labelled_line.model, tmp_path / "int8.onnx"))
    assert done.loss == pytest.approx(np.mean(exact != found))
    assert done.loss
    assert json.loads(Predictor(tmp_path / "int8.onnx").metadata["thresholds"]) == list(cuts)


@pytest.mark.backbones
@pytest.mark.parametrize("name", menu.ONE_OF_EACH.values())
def test_every_family_of_backbones_can_be_reduced(name: str, tmp_path: Path) -> None:
    net = menu.make(name, BREAKERS.get(name))
    source = tmp_path / "source.onnx"
    export.write_onnx(export.Deployed(net, net.card, 1.3).eval(), source, 20, {})
    images = noise(8, net.card.input_size)
    paths = both(source, tmp_path, images)
    assert error(source, paths["fp16"], images) < 0.1
    found, exact = (computed(path, images)[1] for path in (paths["int8"], source))
    assert np.square(found - exact).mean() < 0.1 * np.square(exact).mean()
    sizes = [path.stat().st_size for path in (source, paths["fp16"], paths["int8"])]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.35 * sizes[0]
