"""What a graph must keep to, so that onnxruntime, OpenVINO and TensorRT all take it.

Operators are those of ONNX's standard domain, with the types that TensorRT has them for. onnxruntime computes the
float64 of the resize as it is: its grey levels are those of the arrays, to the last bit. OpenVINO computes it as
float32: of 100,000 pixels of noise, 0 to 4 come out a grey level off. So does TensorRT, says its documentation; it was
not tried. Below float32 a fifth of the pixels is off, as by OpenVINO's default on processors with bfloat16
(INFERENCE_PRECISION_HINT=f32 prevents it); TensorRT's TF32 is to be turned off as well (NVIDIA_TF32_OVERRIDE=0).

Nothing is optimised offline: the exporter has folded constants and batch normalisation already, and what onnxruntime's
portable level (ORT_ENABLE_BASIC) adds is no node fewer, no time less, and eight operator sets that are not ONNX's.
"""

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
