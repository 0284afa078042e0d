"""What TensorRT takes of ONNX, as its parser's documentation says: it cannot be installed everywhere.

From docs/operators.md of github.com/onnx/onnx-tensorrt for TensorRT 10.15: opset 9 to 24, "limited support for DOUBLE
type. TensorRT will attempt to cast DOUBLE down to FLOAT", "UINT8 is only supported as network input or output tensor
types". Operators of sequences, strings and recurrent networks, which no classifier of images has, are left out.
"""

from pathlib import Path

import onnx
from onnx import TensorProto

OPSETS = range(9, 25)

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBERS | {TensorProto.BOOL}


def _of(types: set[int], names: str) -> dict[str, set[int]]:
    return dict.fromkeys(names.split(), types)


_OPERATORS = {
    **_of(
        _FLOATS,
        "AveragePool BatchNormalization Ceil Clip Conv ConvTranspose Cos CumSum Einsum Elu Erf Exp Floor Gemm "
        "GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish InstanceNormalization "
        "LayerNormalization LeakyRelu Log LogSoftmax MatMul MaxPool Mish PRelu QuantizeLinear Reciprocal Resize Round "
        "Selu Sigmoid Sin Softmax Softplus Softsign Sqrt Tan Tanh",
    ),
    **_of(
        _NUMBERS,
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod "
        "Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Relu ScatterElements ScatterND Sign SpaceToDepth Sub Sum TopK",
    ),
    **_of(
        _ANY,
        "Concat ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Size Slice Split "
        "Squeeze Tile Transpose Trilu Unsqueeze Where",
    ),
    **_of({TensorProto.BOOL}, "And Not Or Xor"),
    **_of({*_ANY, TensorProto.UINT8}, "Cast"),
    **_of({TensorProto.INT8}, "DequantizeLinear"),
}
_CONDITIONS = {"Where": 1}  # the input that the types are of, where it is not the first one


def refused(path: Path) -> list[str]:
    """What of a file TensorRT does not take, one line each; empty where it takes all of it."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = [f"domain {opset.domain}" for opset in model.opset_import if opset.domain]
    own = [opset.version for opset in model.opset_import if not opset.domain]
    found += [f"opset {version}" for version in own if version not in OPSETS]
    for node in graph.node:
        kind = (types | constants)[node.input[_CONDITIONS.get(node.op_type, 0)]]
        kind = TensorProto.FLOAT if kind == TensorProto.DOUBLE else kind
        if node.domain or kind not in _OPERATORS.get(node.op_type, set()):
            found.append(f"{node.domain}{node.op_type} of {TensorProto.DataType.Name(kind)}")
        if node.op_type.startswith("Reduce") and not constants.keys() >= {*node.input[1:]}:
            found.append(f"{node.op_type} over axes that are no initializer")
    return found
