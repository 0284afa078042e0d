"""Frozen blocks as a function of stored views, run by whichever engine pays for so many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor, nn

from transferline.model import memory
from transferline.model.classifier import Classifier, out_of_place, pick_device

if TYPE_CHECKING:
    import onnx

EVERY = -1  # in the place of a depth: what is pooled behind every block but the last
BATCH = 16  # images a pass; larger ones fall out of a CPU's cache
TOLERANCE = 1e-3  # largest difference between engines, as a share of the largest activation
WORTH = 1e12  # floating-point operations from which on translating into ONNX pays: some ten seconds of torch's

Array = npt.NDArray[Any]
Engine = Callable[[Array], list[npt.NDArray[np.float32]]]  # a batch -> one array per boundary
Runner = Literal["torch", "onnxruntime"]
EngineName = Literal["auto", "torch", "onnxruntime"]


class Rows(Protocol):
    """An array, or what gives one for a slice of its rows."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Array: ...


class Prefix(nn.Module):
    """The blocks up to the deepest of some boundaries, with what leaves at each.

    Args:
        classifier: shares its blocks.
        depths: boundaries in ascending order; after the last block the head's pooling is part of it. EVERY stands
            for what the head's taps pool behind every block but the last, concatenated.
        start: boundary that the input was taken from; 0: stored images.
    """

    def __init__(self, classifier: Classifier, depths: Sequence[int], start: int = 0) -> None:
        super().__init__()
        self.classifier, self.depths, self.start = classifier, tuple(depths), start

    def forward(self, stored: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, S, S, 3], or float32 [B, ...] of the boundary `start` -> float32 [B, ...] per boundary."""
        net = self.classifier
        features = stored if self.start else net.normalise(stored.permute(0, 3, 1, 2).float())
        every, blocks = EVERY in self.depths, len(net.blocks)
        left, pooled = [], []
        for number, block in enumerate(net.blocks[self.start : blocks if every else self.depths[-1]], self.start + 1):
            features = block(features)
            if every and number < blocks:
                pooled.append(net.head.tap(features))
            if number in self.depths:  # copied, since the next block may begin with a layer that works in place
                left.append(net.head.pool(features) if number == blocks else features.clone())
        return (torch.cat(pooled, 1), *left) if every else tuple(left)


@dataclass(frozen=True)
class Chosen:
    """An engine by its name."""

    name: str
    run: Engine


def preferred(classifier: Classifier, count: int, wanted: EngineName = "auto") -> Runner:
    """What is to run the frozen blocks, by a rule and not by a clock: engines differ in the last digits.

    On a CPU onnxruntime is up to 2.5 times as fast as torch where most operations are convolutions, and no faster where
    most are matrix products, as in transformers. It therefore runs convolutional networks, where there is enough to do
    to be worth the translation: the device, the network and the number of images decide, and nothing else.

    Args:
        count: of all images that it will be given.
        wanted: decides where it is not auto; a GPU leaves the blocks to torch all the same.
    """
    if wanted == "torch" or pick_device().type != "cpu":
        return "torch"
    if wanted == "onnxruntime":
        return "onnxruntime"
    every, convolutions = operations(classifier)
    return "onnxruntime" if count * every >= WORTH and 2 * convolutions > every else "torch"


def operations(classifier: Classifier) -> tuple[int, int]:
    """Floating-point operations of all blocks for one image, and those of them in convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        _every(classifier).eval()(torch.from_numpy(_images(classifier, 1)))
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.values()), sum(counts.get(kind, 0) for kind in (aten.convolution, aten._convolution))


def choose(prefix: Prefix, name: Runner) -> Chosen:
    """The engine of that name; torch where onnxruntime cannot run the blocks or does not agree with it.

    onnxruntime is taken only where it runs every block and agrees with torch within TOLERANCE behind each, on made
    images: for one network, the engine is then the same whichever boundaries are asked for, and in whatever order.

    Args:
        prefix: its blocks are run in eval mode and left so; for onnxruntime, from images on.
    """
    by_torch = Chosen("torch", in_torch(prefix))
    if name == "torch":
        return by_torch
    assert prefix.start == 0, "only torch continues from a boundary to the same bits"
    whole = _every(prefix.classifier)
    try:
        with Console().status("translating the frozen blocks for onnxruntime"):
            graph = translated(whole)
    except torch.onnx.errors.OnnxExporterError as error:  # some operators have no ONNX counterpart
        print(f"onnxruntime cannot run these blocks, torch does: {str(error).splitlines()[0]}", flush=True)
        return by_torch
    off = difference(in_torch(whole), in_onnxruntime(graph, whole.depths), _images(prefix.classifier, 4))
    if not off <= TOLERANCE:
        print(f"onnxruntime differs from torch by {off:.1g} of the largest activation: torch runs the blocks")
        return by_torch
    return Chosen("onnxruntime", in_onnxruntime(graph, prefix.depths))


def difference(one: Engine, other: Engine, batch: Array) -> float:
    """Largest difference at any boundary, as a share of the largest activation there."""
    pairs = zip(one(batch), other(batch), strict=True)
    shares = [np.abs(a - b).max() / max(np.abs(a).max(), 1e-12) for a, b in pairs]
    return float(np.max(shares))  # unlike the built-in max, it never hides a NaN


def in_torch(prefix: Prefix) -> Engine:
    """torch in channels_last: in float32 on a CPU, in bfloat16 on a GPU that has it."""
    device = pick_device()
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    prefix.eval()

    def run(batch: Array) -> list[npt.NDArray[np.float32]]:
        prefix.to(device).to(memory_format=torch.channels_last)
        given = torch.from_numpy(np.array(batch)).to(device)  # a copy: what is mapped cannot be written to
        if prefix.start:
            given = given.float()
            if given.ndim == 4:  # tokens, and what fully connected layers give, have no such layout
                given = given.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
            return [np.ascontiguousarray(left.float().cpu().numpy()) for left in prefix(given)]

    halving = memory.Halving(run, "frozen blocks")
    return lambda batch: [np.concatenate(parts) for parts in zip(*halving(batch), strict=True)]


def translated(prefix: Prefix) -> onnx.ModelProto:
    """The blocks as an ONNX graph, `stored` -> `depth_<d>` of each boundary.

    Raises:
        torch.onnx.errors.OnnxExporterError: where an operator cannot be translated.
    """
    program = torch.onnx.export(
        out_of_place(prefix.cpu().eval()),
        (torch.from_numpy(_images(prefix.classifier, 2)),),
        dynamo=True,
        verbose=False,
        input_names=["stored"],
        output_names=[f"depth_{depth}" for depth in prefix.depths],
        dynamic_shapes={"stored": {0: "batch"}},
    )
    assert program is not None
    return program.model_proto


def in_onnxruntime(graph: onnx.ModelProto, depths: Iterable[int]) -> Engine:
    """Some of the graph's boundaries, and no block behind the last, on the CPU with as many threads as torch has."""
    import onnxruntime
    from onnx.utils import Extractor

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    part = Extractor(graph).extract_model(["stored"], [f"depth_{depth}" for depth in depths])
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(batch: Array) -> list[npt.NDArray[np.float32]]:
        return [np.asarray(left) for left in session.run(None, {"stored": np.ascontiguousarray(batch)})]

    return run


def _every(classifier: Classifier) -> Prefix:
    return Prefix(classifier, (EVERY, *range(1, len(classifier.blocks) + 1)))


def _images(classifier: Classifier, count: int) -> npt.NDArray[np.uint8]:
    """Always the same: noise, each image of another contrast. uint8 [count, S, S, 3]."""
    side = classifier.card.input_size
    noise = np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3))
    contrast = np.linspace(128, 32, count).reshape(-1, 1, 1, 1)
    return (127.5 + contrast * noise).clip(0, 255).astype(np.uint8)
