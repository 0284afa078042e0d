"""An exported model as a Python object: onnxruntime, numpy and Pillow are all it needs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from transferline import cores
from transferline.data import images
from transferline.deploy import session
from transferline.errors import UserError

_PART_IMAGES = 64  # run at once, on a GPU
_PART_A_CORE, _PART_ON_CPU = 4, 8  # and on a CPU, whose caches hold no more: 32 at once take a fifth longer an image
_PART_PIXELS = 32_000_000  # as before they are resized, which takes some 18 bytes a pixel
_LARGE_PIXELS = 16_000_000  # of a run whose memory is given back: keeping it for the next one is a quarter faster
_GIVING_BACK = onnxruntime.RunOptions()
_GIVING_BACK.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")


class Predictor:
    """Raw images in, probabilities out; preprocessing is part of the graph.

    Several threads may use one at once.

    Args:
        path: an ONNX file that the export stage wrote.
        providers: onnxruntime's execution providers, by its names or as `cpu`, `cuda` and `tensorrt`; the CPU takes
            what the others leave. None: CUDA where there is a GPU.
        threads: that compute at once. None: one a core, of those that this process may use.
        spinning: whether they wait for work by turning in circles: faster, unless something else, such as the
            decoding of the next images, needs the cores.

    Attributes:
        classes: C class names, in the order of the probabilities.
        thresholds: float64 [C], where an image may have several labels: it has those whose probability is at
            least their threshold. None where an image is in exactly one class.
        metadata: what the export stage wrote into the file.
        providers: that the session really has, by onnxruntime's names.
        device: `cuda` or `cpu`.

    Raises:
        UserError: where the file is missing, damaged, no ONNX model, or one that the export stage did not write;
            where a provider that is asked for cannot be had.
    """

    def __init__(
        self,
        path: Path,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        spinning: bool = True,
    ) -> None:
        self._path, self._session = path, session.opened(path, providers, threads, spinning)
        self._has_run = False
        self.providers: list[str] = list(self._session.get_providers())
        self.device = "cuda" if session.CUDA in self.providers else "cpu"
        on_cpu = max(_PART_ON_CPU, _PART_A_CORE * (threads or cores.usable()))
        self._part = min(_PART_IMAGES, on_cpu) if self.device == "cpu" else _PART_IMAGES
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if "classes" not in self.metadata:
            raise UserError(f"{path} carries no class names", "give a model that Transferline's export stage wrote")
        self.classes: list[str] = _listed(path, self.metadata, "classes", str)
        self.thresholds: npt.NDArray[np.float64] | None = None
        if "thresholds" in self.metadata:
            self.thresholds = np.array(_listed(path, self.metadata, "thresholds", float), dtype=np.float64)
        _require_ends(path, self._session, len(self.classes), self.thresholds)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities float32 [B, C] of RGB images uint8 [B, H, W, 3] of one size, whatever it is.

        B may be 0, or so large that the images would not fit into memory at once: they are run in parts.

        Raises:
            UserError: where `pixels` are not that, or the graph cannot be run, as where it is damaged.
        """
        _require_images(pixels)
        size = max(1, min(self._part, _PART_PIXELS // max(1, pixels.shape[1] * pixels.shape[2])))
        parts = [self._run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)

    def _run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        large = self.device == "cpu" and pixels.size > 3 * _LARGE_PIXELS
        try:
            if large and not self._has_run:  # what its first run takes, onnxruntime never gives back
                self._session.run(["probabilities"], {"images": np.zeros((1, 1, 1, 3), np.uint8)})
            feed = {"images": np.ascontiguousarray(pixels)}
            (probabilities,) = self._session.run(["probabilities"], feed, _GIVING_BACK if large else None)
        except Exception as error:  # onnxruntime's errors have no other base class
            message = f"{self._path} cannot be run, as if it were damaged: {session.line(error)}"
            raise UserError(message, session.ANOTHER) from None
        self._has_run = True
        assert isinstance(probabilities, np.ndarray)
        return probabilities

    def predict_file(self, source: Path | bytes) -> npt.NDArray[np.float32]:
        """Probabilities float32 [C] of an image file, or of its content. Raises what `images.decode` raises."""
        pixels = images.decode(source, max_pixels=images.MAX_PIXELS)
        return np.asarray(self.predict(pixels[np.newaxis])[0])

    def labels(self, probabilities: npt.NDArray[np.floating]) -> list[str]:
        """The classes of an image with these probabilities [C]: the likeliest one, or those at their thresholds."""
        if self.thresholds is None:
            return [self.classes[int(probabilities.argmax())]]
        return [self.classes[index] for index in np.flatnonzero(probabilities >= self.thresholds)]


def _require_images(pixels: npt.NDArray[np.uint8]) -> None:
    if not isinstance(pixels, np.ndarray):
        raise UserError(f"images are one array, and not {type(pixels).__name__}", "numpy.stack makes one of several")
    if pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[3] == 3:
        if pixels.size or not len(pixels):
            return
        raise UserError(f"images of shape {list(pixels.shape)} have no pixels", "give images of at least 1x1")
    if pixels.dtype != np.uint8:
        fix = "grey levels are whole numbers from 0 to 255, not normalised: the model does that itself"
    elif pixels.ndim == 3 and pixels.shape[2] == 3:
        fix = "one image is a batch of one: pixels[numpy.newaxis]"
    elif pixels.ndim == 4 and pixels.shape[1] == 3:
        fix = "colours come last: pixels.transpose(0, 2, 3, 1)"
    else:
        fix = "transferline.data.images.decode gives RGB images, and numpy.stack a batch of those of one size"
    shape = f"{pixels.dtype} {list(pixels.shape)}"
    raise UserError(f"images are uint8 [batch, height, width, 3], and not {shape}", fix)


def _listed(path: Path, metadata: dict[str, str], key: str, kind: type) -> list[Any]:
    """A list of the metadata. Raises UserError where it is none, or holds something else than `kind`."""
    try:
        values = json.loads(metadata[key])
    except ValueError:
        values = None
    if not isinstance(values, list) or not values or not all(isinstance(value, kind) for value in values):
        raise UserError(f"{path} is damaged: its metadata's '{key}' cannot be read", session.ANOTHER)
    return values


def _require_ends(
    path: Path, opened: onnxruntime.InferenceSession, classes: int, thresholds: npt.NDArray[np.float64] | None
) -> None:
    """Raises UserError where inputs and outputs are not those of an exported model of as many classes."""
    given = {end.name: (end.type, len(end.shape)) for end in opened.get_inputs()}
    left = {end.name: end for end in opened.get_outputs()}
    wide = left["probabilities"].shape[-1:] if "probabilities" in left else []
    right = given == {"images": ("tensor(uint8)", 4)} and wide and (wide[0] == classes or not isinstance(wide[0], int))
    if not right or (thresholds is not None and len(thresholds) != classes):
        raise UserError(f"{path} is damaged, or not of Transferline: its ends do not fit its classes", session.ANOTHER)
