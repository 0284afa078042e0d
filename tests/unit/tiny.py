"""The smallest ONNX file that the predictor takes: it needs neither torch nor a training."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from transferline import seal


def write(path: Path, thresholds: str | None = None) -> None:
    """Two logits, the mean red and the mean green of an image in units of 64, and their softmax.

    With `thresholds`, as JSON, the file says that an image has any number of these labels.
    """
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("probabilities", "logits")
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "first"], ["two"], axis=1),
        helper.make_node("Div", ["two", "unit"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("first", TensorProto.INT64, [2], [0, 1]),
        helper.make_tensor("unit", TensorProto.FLOAT, [], [64.0]),
    ]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, constants)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    several = {} if thresholds is None else {"thresholds": thresholds}
    helper.set_model_props(model, {"classes": '["red", "green"]', **several, seal.KEY: seal.BLANK})
    onnx.save(model, path)
    seal.seal(path)
