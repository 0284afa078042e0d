"""An exported model as a Python object: onnxruntime, numpy and Pillow are all it needs."""

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from transferline import seal
from transferline.data import images
from transferline.errors import UserError

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3
_ANOTHER = "give an undamaged copy; models/onnx/model.onnx: delete it, and 'dvc repro' makes it again"
_MAX_PIXELS = 200_000_000  # a file to predict may come from anywhere: the guard against decompression bombs


class Predictor:
    """Raw images in, probabilities out; preprocessing is part of the graph.

    Args:
        path: an ONNX file that the export stage wrote.

    Attributes:
        classes: C class names, in the order of the probabilities.
        thresholds: float64 [C], where an image may have several labels: it has those whose probability is at
            least their threshold. None where an image is in exactly one class.
        metadata: what the export stage wrote into the file.
        device: `cuda` or `cpu`.

    Raises:
        UserError: where the file is missing, damaged, no ONNX model, or one that the export stage did not write.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._session = path, _open(path)
        self.device = "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"
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

        Raises:
            UserError: where the graph cannot be run, as where it is damaged.
        """
        try:
            (probabilities,) = self._session.run(["probabilities"], {"images": pixels})
        except Exception as error:  # onnxruntime's errors have no other base class
            raise UserError(f"{self._path} cannot be run, as if it were damaged: {_line(error)}", _ANOTHER) from None
        assert isinstance(probabilities, np.ndarray)
        return probabilities

    def predict_file(self, source: Path | bytes) -> npt.NDArray[np.float32]:
        """Probabilities float32 [C] of an image file, or of its content. Raises what `images.decode` raises."""
        pixels = images.decode(source, max_pixels=_MAX_PIXELS)
        return np.asarray(self.predict(pixels[np.newaxis])[0])

    def labels(self, probabilities: npt.NDArray[np.floating]) -> list[str]:
        """The classes of an image with these probabilities [C]: the likeliest one, or those at their thresholds."""
        if self.thresholds is None:
            return [self.classes[int(probabilities.argmax())]]
        return [self.classes[index] for index in np.flatnonzero(probabilities >= self.thresholds)]


def _open(path: Path) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise UserError(f"{path} is missing", "'dvc repro' makes models/onnx/model.onnx; or give another .onnx file")
    if not seal.intact(path):
        raise UserError(f"{path} is damaged: it is not what was exported", _ANOTHER)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers())
    except Exception as error:  # onnxruntime's errors have no other base class
        raise UserError(f"{path} is no ONNX model that runs here, or it is damaged: {_line(error)}", _ANOTHER) from None


def _listed(path: Path, metadata: dict[str, str], key: str, kind: type) -> list[Any]:
    """A list of the metadata. Raises UserError where it is none, or holds something else than `kind`."""
    try:
        values = json.loads(metadata[key])
    except ValueError:
        values = None
    if not isinstance(values, list) or not values or not all(isinstance(value, kind) for value in values):
        raise UserError(f"{path} is damaged: its metadata's '{key}' cannot be read", _ANOTHER)
    return values


def _require_ends(
    path: Path, session: onnxruntime.InferenceSession, classes: int, thresholds: npt.NDArray[np.float64] | None
) -> None:
    """Raises UserError where inputs and outputs are not those of an exported model of as many classes."""
    given = {end.name: (end.type, len(end.shape)) for end in session.get_inputs()}
    left = {end.name: end for end in session.get_outputs()}
    wide = left["probabilities"].shape[-1:] if "probabilities" in left else []
    right = given == {"images": ("tensor(uint8)", 4)} and wide and (wide[0] == classes or not isinstance(wide[0], int))
    if not right or (thresholds is not None and len(thresholds) != classes):
        raise UserError(f"{path} is damaged, or not of Transferline: its ends do not fit its classes", _ANOTHER)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _providers() -> Sequence[str | tuple[str, dict[Any, Any]]]:
    """CUDA where there is such a GPU, always the CPU."""
    if _CUDA not in onnxruntime.get_available_providers() or not _has_gpu():
        return [_CPU]
    onnxruntime.preload_dlls()
    # Full float32, as on the CPU; and no search for the fastest convolution with each new batch size.
    return [(_CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), _CPU]


def _has_gpu() -> bool:
    """Whether the driver finds a GPU: onnxruntime lists CUDA, and complains loudly, without one too."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
