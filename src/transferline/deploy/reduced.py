"""The exported graph in fewer bits: fp16, and int8 with as many layers in float as its answers need."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from transferline import seal
from transferline.deploy import operators, partition
from transferline.deploy.quantized import Feeds, Images, Quantizer, Track
from transferline.deploy.sensitivity import Candidate, Judge, Search

_FEW = 16  # images by which layers are ranked
_WATCHED = 4  # images at once where all activations are kept: some 135 MB each in EfficientNet-Lite0 at 224 pixels


@dataclass(frozen=True)
class Reduced:
    """How a smaller graph came about.

    Attributes:
        kept_in_float: the names of the layers that are not in int8, in the graph's order.
        tried: candidates whose loss was measured.
        loss: of the one that was kept, on the calibration images: the share whose top-1 is not fp32's; in multi-label
            data, the share of labels that are decided otherwise. None where none was measured.
        note: what there is to say of it, as one line.
    """

    kept_in_float: list[str]
    tried: int
    loss: float | None
    note: str


def write_fp16(source: Path, target: Path) -> Reduced:
    """Write a file whose layers compute in half precision; equal files give equal bytes.

    Preprocessing, temperature and softmax, and the graph's ends, stay what they are.

    Args:
        source: the fp32 file that export wrote.
        target: is written anew, with the same metadata but `variant`.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    parts = partition.parts(onnx.load(source))
    operators.multiply_first(parts.network.graph)
    _write(parts.joined(convert_float_to_float16(parts.network, keep_io_types=True)), target, "fp16")
    return Reduced([], 0, None, "all layers are in half precision")


def write_int8(
    source: Path,
    target: Path,
    images: Images,
    *,
    max_loss: float,
    trials: int,
    batch_size: int,
    progress: Track,
    symmetric: bool = False,
) -> Reduced:
    """Write a file with as many layers in int8 as lose little; equal inputs give equal bytes.

    Preprocessing, temperature and softmax, and the graph's ends, stay what they are.

    Args:
        source: the fp32 file that export wrote.
        target: is written anew, with the same metadata but `variant`.
        images: uint8 [N, S, S, 3] of the network's input size, to calibrate and to measure on.
        max_loss: see `Reduced.loss`. Where no candidate is within it, the best one is written, and the note says so.
        trials: candidates at most, see `sensitivity.Search`.
        batch_size: images that are computed at once.
        progress: shows how far it is.
        symmetric: see `quantized.Quantizer`.
    """
    model = onnx.load(source)
    parts = partition.parts(model)
    feeds = Feeds(parts, images, batch_size)
    quantizer = Quantizer(parts.network, Feeds(parts, images, _WATCHED), progress, symmetric=symmetric)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spread = np.linspace(0, len(images) - 1, min(_FEW, len(images))).astype(int)
    few = Judge(parts.network, list(Feeds(parts, images[spread], batch_size)), metadata)
    search = Search(quantizer, quantizer.layers, Judge(parts.network, feeds, metadata), few, max_loss)
    best = search.run(trials, progress)
    floats = search.floats(best)
    _write(parts.joined(quantizer(floats)), target, "int8")
    return Reduced(
        floats, len(search.tried), best.loss, _note(best, len(search.tried), len(quantizer.layers), max_loss)
    )


def _note(best: Candidate, tried: int, layers: int, max_loss: float) -> str:
    note = f"{layers - best.count} of {layers} layers are in int8"
    if best.loss > max_loss:
        note += f"; none of {tried} candidates lost at most {max_loss:.3g} on the calibration images"
    return note


def _write(model: ModelProto, path: Path, variant: str) -> None:
    """Seal a model as `variant`. Raises onnx.checker.ValidationError where it is no valid ONNX."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {"variant": variant, seal.KEY: seal.BLANK})
    onnx.save(model, path)
    seal.seal(path)
    onnx.checker.check_model(path, full_check=True)
