"""A network in int8, by onnxruntime's quantizer, but for the layers that are to stay in float."""

import logging
import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from transferline.deploy.partition import LOGITS, Parts, titles

Images = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[Any]]
Ranges = dict[str, tuple[np.float32, np.float32]]
T = TypeVar("T")
# What has weights, and the activations that the quantizer folds into what comes before them. An addition or a pooling
# between such layers computes in int8 too, where the engine finds it between quantized tensors.
_FOLDED = ["Clip", "Relu"]
_ERRORS_ONLY = 3


class Track(Protocol):
    """Goes through a sequence and shows how far it is, as `rich.progress.track`."""

    def __call__(self, sequence: Iterable[T], description: str) -> Iterable[T]: ...


class Feeds:
    """What the network takes of each batch of images, computed anew each time one goes through them.

    Args:
        images: uint8 [N, S, S, 3].
        batch_size: images in a batch.
    """

    def __init__(self, parts: Parts, images: Images, batch_size: int) -> None:
        self._entries, self._images, self._batch_size = parts.entries, images, batch_size
        self._session = _session(parts.preprocessing())

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __iter__(self) -> Iterator[Feed]:
        for start in range(0, len(self._images), self._batch_size):
            batch = self._images[start : start + self._batch_size]
            yield dict(zip(self._entries, _run(self._session, self._entries, {"images": batch}), strict=True))


class Quantizer:
    """Makes int8 versions of a network: standard QDQ, weights per channel and symmetric, biases in float.

    Weights have 7 bits: a CPU with AVX2 but no VNNI adds products in pairs of 16 bits, which those of 8 may overflow.
    Activations are uint8 with a zero point, by which an int8 layer takes its Clip or ReLU in; TensorRT takes symmetric
    int8 alone, which costs no accuracy, but such layers are slower than float32 on a CPU.

    Args:
        network: of standard operators.
        feeds: of calibration images; the range of an activation is from the smallest to the largest value seen on them
            (moving averages, percentiles and entropy gave no better answers).
        track: shows the progress of the calibration.
        symmetric: activations as TensorRT takes them.

    Attributes:
        layers: what can be in int8, by `partition.titles`, in the graph's order.
    """

    def __init__(self, network: ModelProto, feeds: Iterable[Feed], track: Track, *, symmetric: bool = False) -> None:
        self._symmetric = symmetric
        self._network = _prepared(network)
        self._titles = titles(self._network.graph)
        self.layers = list(self._titles.values())
        self._quantized = [
            node for node in self._network.graph.node if node.name in self._titles or node.op_type in _FOLDED
        ]
        self._ranges = _ranges(self._network, self._quantized, feeds, track)

    def __call__(self, floats: Collection[str]) -> ModelProto:
        """The network in int8, but for the layers named, which are not all."""
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        assert not set(self.layers) <= set(floats), "the quantizer takes no nodes for all of them"
        network = ModelProto()
        network.CopyFrom(self._network)
        with _quiet():
            quantizer = QDQQuantizer(
                network,
                per_channel=True,
                reduce_range=True,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, dict(self._ranges)),
                nodes_to_quantize=[node.name for node in self._quantized if self._titles.get(node.name) not in floats],
                nodes_to_exclude=[],
                op_types_to_quantize=sorted({node.op_type for node in self._quantized}),
                extra_options={"ActivationSymmetric": self._symmetric, "QuantizeBias": False},
            )
            quantizer.quantize_model()
        return _with_float_ends(quantizer.model.model)


def _prepared(network: ModelProto) -> ModelProto:
    """With the shapes of all tensors, constants folded, and of the standard's operators only."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, prepared_file = Path(folder) / "given.onnx", Path(folder) / "prepared.onnx"
        onnx.save(network, given)
        # onnxruntime's symbolic inference knows no ReduceMax, which pools for a head on several blocks.
        quant_pre_process(given, prepared_file, skip_symbolic_shape=True)
        prepared = onnx.load(prepared_file)
    assert all(node.domain in ("", "ai.onnx") for node in prepared.graph.node), "nothing of onnxruntime's own"
    del prepared.opset_import[:]
    prepared.opset_import.extend(network.opset_import)
    return prepared


def _ranges(network: ModelProto, nodes: Sequence[NodeProto], feeds: Iterable[Feed], track: Track) -> Ranges:
    """The smallest and the largest value of every tensor that goes into these nodes or comes out of them."""
    constants = {tensor.name for tensor in network.graph.initializer}
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name)
    given = {value.name for value in network.graph.input}
    inner = [name for name in names if name not in constants and name not in given]
    watched = ModelProto()
    watched.CopyFrom(network)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    session = _session(watched)
    ranges: Ranges = {}
    for feed in track(feeds, "calibrating int8"):
        seen = dict(zip(inner, _run(session, inner, feed), strict=True))
        seen |= {name: values for name, values in feed.items() if name in names}
        for name, values in seen.items():
            low, high = ranges.get(name, (values.flat[0], values.flat[0]))
            ranges[name] = min(low, values.min()), max(high, values.max())
    return ranges


def logits(network: ModelProto, feeds: Iterable[Feed]) -> Values:
    """float32 [N, C] of all images."""
    session = _session(network)
    return np.concatenate([_run(session, [LOGITS], feed)[0] for feed in feeds])


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, names: Sequence[str], feed: Feed) -> list[npt.NDArray[Any]]:
    found: Any = session.run(names, feed)
    return list(found)


def _with_float_ends(network: ModelProto) -> ModelProto:
    """Without the rounding of what the network gives: 256 levels are too few to tell close classes apart."""
    graph = network.graph
    maker = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        last = maker[output.name]
        if last.op_type != "DequantizeLinear":
            continue
        rounded = maker[last.input[0]]
        maker[rounded.input[0]].output[:] = [output.name]
        graph.node.remove(last)
        graph.node.remove(rounded)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the root logger what onnxruntime's tools tell it: it would also be given a handler by that."""

    def is_foreign(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    handler, root = logging.NullHandler(), logging.getLogger()
    root.addFilter(is_foreign)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeFilter(is_foreign)
        root.removeHandler(handler)
