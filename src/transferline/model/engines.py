"""Frozen blocks as a function of stored views, run by whichever engine measures fastest."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor, nn

from transferline.model.classifier import Classifier, pick_device

BATCH = 16  # images a pass; larger ones fall out of a CPU's cache
TOLERANCE = 1e-3  # largest difference between engines, as a share of the largest activation

_EXPORT_SECONDS = 30.0  # what translating into ONNX may cost; below that, torch is done before
_MEASURED = 2  # batches, after one that warms up

Array = npt.NDArray[Any]
Engine = Callable[[Array], list[npt.NDArray[np.float32]]]  # a batch -> one array per boundary
EngineName = Literal["auto", "torch", "onnxruntime"]


class Prefix(nn.Module):
    """The blocks up to the deepest of some boundaries, with what leaves at each.

    Args:
        classifier: shares its blocks.
        depths: boundaries in ascending order; after the last block the head's pooling is part of it.
        start: boundary that the input was taken from; 0: stored images.
    """

    def __init__(self, classifier: Classifier, depths: Sequence[int], start: int = 0) -> None:
        super().__init__()
        self.classifier, self.depths, self.start = classifier, tuple(depths), start

    def forward(self, stored: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, S, S, 3], or float32 [B, ...] of the boundary `start` -> float32 [B, ...] per boundary."""
        net = self.classifier
        features = stored if self.start else net.normalise(stored.permute(0, 3, 1, 2).float())
        left = []
        for number, block in enumerate(net.blocks[self.start : self.depths[-1]], self.start + 1):
            features = block(features)
            if number in self.depths:  # copied, since the next block may begin with a layer that works in place
                left.append(net.head.pool(features) if number == len(net.blocks) else features.clone())
        return tuple(left)


@dataclass(frozen=True)
class Chosen:
    """An engine, and the images a second that it was measured at."""

    name: str
    run: Engine
    rate: float


def choose(prefix: Prefix, stored: Array, wanted: EngineName = "auto", count: int | None = None) -> Chosen:
    """The fastest engine at hand, by measuring some batches; `wanted` decides where it is not auto.

    onnxruntime is tried on a CPU where torch would take longer than translating the blocks for it, and is
    taken only where it agrees with torch within TOLERANCE.

    Args:
        prefix: its blocks are run in eval mode and left so.
        stored: all that the engine will be given, [M, ...], or a part of it.
        count: how many rows it will be given in all; None: M.
    """
    batches = [stored[start : start + BATCH] for start in range(0, min(len(stored), (1 + _MEASURED) * BATCH), BATCH)]
    by_torch = _measured("torch", in_torch(prefix), batches)
    on_cpu = pick_device().type == "cpu"
    if (
        wanted == "torch"
        or not on_cpu
        or (wanted == "auto" and (count or len(stored)) / by_torch.rate < _EXPORT_SECONDS)
    ):
        return by_torch
    try:
        with Console().status("translating the frozen blocks for onnxruntime"):
            by_onnx = _measured("onnxruntime", in_onnxruntime(prefix, batches[0]), batches)
    except torch.onnx.errors.OnnxExporterError as error:  # some operators have no ONNX counterpart
        print(f"onnxruntime cannot run these blocks, torch does: {str(error).splitlines()[0]}", flush=True)
        return by_torch
    agree = difference(by_torch.run, by_onnx.run, batches[0]) <= TOLERANCE
    return by_onnx if agree and (wanted == "onnxruntime" or by_onnx.rate > by_torch.rate) else by_torch


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

    return run


def in_onnxruntime(prefix: Prefix, example: Array) -> Engine:
    """The blocks as an ONNX graph on the CPU, with as many threads as torch has.

    Raises:
        torch.onnx.errors.OnnxExporterError: where an operator cannot be translated.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefix.onnx"
        torch.onnx.export(
            prefix.cpu().eval(),
            (torch.from_numpy(np.array(np.resize(example, (2, *example.shape[1:])))),),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["stored"],
            output_names=[f"depth_{depth}" for depth in prefix.depths],
            dynamic_shapes={"stored": {0: "batch"}},
        )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: Array) -> list[npt.NDArray[np.float32]]:
        given = np.ascontiguousarray(batch, dtype=np.float32 if prefix.start else np.uint8)
        return [np.asarray(left) for left in session.run(None, {"stored": given})]

    return run


def _measured(name: str, run: Engine, batches: Sequence[Array]) -> Chosen:
    """Over all batches but the first, which warms up; over that one where it is the only one."""
    run(batches[0])
    timed = batches[1:] or batches
    start = time.perf_counter()
    for batch in timed:
        run(batch)
    return Chosen(name, run, sum(map(len, timed)) / (time.perf_counter() - start))
