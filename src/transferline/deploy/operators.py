"""What a graph must keep to, so that onnxruntime, OpenVINO and TensorRT all take it.

Operators are those of ONNX's standard domain, with the types that TensorRT has them for. onnxruntime computes the
float64 of the resize as it is: its grey levels are those of the arrays, to the last bit. OpenVINO computes it as
float32: of 100,000 pixels of noise, 0 to 4 come out a grey level off. So does TensorRT, says its documentation; it was
not tried. Below float32 a fifth of the pixels is off, as by OpenVINO's default on processors with bfloat16
(INFERENCE_PRECISION_HINT=f32 prevents it); TensorRT's TF32 is to be turned off as well (NVIDIA_TF32_OVERRIDE=0).

Nothing is optimised offline: the exporter has folded constants and batch normalisation already, and what onnxruntime's
portable level (ORT_ENABLE_BASIC) adds is no node fewer, no time less, and eight operator sets that are not ONNX's.
"""

from onnx import GraphProto, helper
from onnxscript import ir


def cast_first(graph: ir.Graph) -> None:
    """Have the cast of the uint8 input be its one consumer: the exporter takes sides from there, TensorRT does not."""
    (images,) = graph.inputs
    consumers = [use.node for use in images.uses()]
    (cast,) = (node for node in consumers if node.op_type == "Cast")
    graph.remove(cast)
    graph.insert_before(graph[0], cast)
    for node in consumers:
        if node is not cast:
            assert node.op_type == "Shape", f"{node.op_type} of uint8"
            node.replace_input_with(0, cast.outputs[0])


def multiply_first(graph: GraphProto) -> None:
    """Have weights multiply what is not yet transposed, where the last axis stays the last: the numbers are the same.

    In half precision, a product of three transposed axes crashes onnxruntime 1.24 to 1.31 on x86-64
    (github.com/microsoft/onnxruntime/issues/28392); the attention of torch.nn.MultiheadAttention begins with one.
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    transposed = {node.output[0]: node for node in graph.node if node.op_type == "Transpose"}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "MatMul" and node.input[0] in transposed and node.input[1] in matrices:
            before = transposed[node.input[0]]
            order = helper.get_node_attr_value(before, "perm")
            if order[-1] == len(order) - 1:
                (result,) = node.output
                node.input[0], node.output[0] = before.input[0], f"{result}_untransposed"
                after = helper.make_node("Transpose", node.output, [result], f"{node.name}_transposed", perm=order)
                graph.node.insert(index + 1, after)
    taken = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in transposed.values():
        if node.output[0] not in taken:
            graph.node.remove(node)
