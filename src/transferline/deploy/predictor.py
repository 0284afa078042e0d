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

from transferline.data import images
from transferline.errors import UserError

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3
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
        UserError: where the file is missing, is no ONNX model, or carries no class names.
    """

    def __init__(self, path: Path) -> None:
        self._session = _open(path)
        self.device = "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if "classes" not in self.metadata:
            raise UserError(f"{path} carries no class names", "give a model that Transferline's export stage wrote")
        self.classes: list[str] = json.loads(self.metadata["classes"])
        cuts = self.metadata.get("thresholds")
        self.thresholds = None if cuts is None else np.array(json.loads(cuts), dtype=np.float64)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities float32 [B, C] of RGB images uint8 [B, H, W, 3] of one size, whatever it is."""
        (probabilities,) = self._session.run(["probabilities"], {"images": pixels})
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers())
    except Exception as error:  # onnxruntime's errors have no other base class
        raise UserError(
            f"{path} is no ONNX model that runs here: {error}", "export it again: dvc repro export"
        ) from None


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
