"""An onnxruntime session on the devices asked for, or a message: onnxruntime itself falls back in silence."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from transferline import cores, seal
from transferline.errors import UserError, nearest

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
ANOTHER = "give an undamaged copy; models/onnx/model.onnx: delete it, and 'dvc repro' makes it again"

_SHORT = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_ON_GPU = {CUDA, TENSORRT}
_ERRORS_ONLY, _NOTHING = 3, 4
# Full float32, as on the CPU; and no search for the fastest convolution with each new batch size.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
# Full precision; no cache of engines unless a user sets ORT_TENSORRT_ENGINE_CACHE_ENABLE: one belongs to a GPU, a
# driver and a version of TensorRT. What TensorRT would take in pieces of a few nodes is left to CUDA.
_TENSORRT_OPTIONS = {"trt_fp16_enable": "0", "trt_int8_enable": "0", "trt_min_subgraph_size": "5"}
_OPTIONS: dict[str, dict[Any, Any]] = {CUDA: _CUDA_OPTIONS, TENSORRT: _TENSORRT_OPTIONS}


def opened(
    path: Path, providers: Sequence[str] | None = None, threads: int | None = None, spinning: bool = True
) -> onnxruntime.InferenceSession:
    """A session of an exported file; the arguments are those of `Predictor`.

    Raises:
        UserError: where the file is missing, damaged or no ONNX model, or a provider asked for cannot be had.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing", "'dvc repro' makes models/onnx/model.onnx; or give another .onnx file")
    if not seal.intact(path):
        raise UserError(f"{path} is damaged: it is not what was exported", ANOTHER)
    wanted = _full_names(providers)
    if _ON_GPU & set(wanted):
        onnxruntime.preload_dlls()
    listed = [(name, _OPTIONS.get(name, {})) for name in wanted]
    options = _options(threads, spinning, _NOTHING if providers else _ERRORS_ONLY)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=listed, enable_fallback=int(providers is None))
    except Exception as error:  # onnxruntime's errors have no other base class
        where = f"on {wanted[0]}" if providers else "here"
        raise UserError(
            f"{path} is no ONNX model that runs {where}, or it is damaged: {line(error)}", ANOTHER
        ) from None
    if providers is not None:
        _require(session, wanted)
    return session


def line(error: Exception) -> str:
    """The first line of a message of onnxruntime's."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _options(threads: int | None, spinning: bool, severity: int) -> onnxruntime.SessionOptions:
    if threads is not None and threads < 1:
        raise UserError(f"{threads} threads cannot compute", "give 1 or more")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    if threads is None and cores.limited():
        threads = cores.usable()  # its own default is the machine's cores, whatever share of them is a container's
    options.intra_op_num_threads = threads or 0  # 0: a thread a physical core, pinned
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _full_names(providers: Sequence[str] | None) -> list[str]:
    """onnxruntime's names, the CPU last. Raises UserError for one that is unknown, or not of this onnxruntime."""
    available = onnxruntime.get_available_providers()
    if providers is None:
        return [CUDA, CPU] if CUDA in available and _has_gpu() else [CPU]
    known = {name.lower(): name for name in onnxruntime.get_all_providers()} | _SHORT
    names = []
    for given in providers:
        name = known.get(given.lower())
        if name is None:
            raise UserError(f"'{given}' is no execution provider", nearest(given.lower(), _SHORT))
        if name not in available or (name in _ON_GPU and not _has_gpu()):
            why = "this onnxruntime is not built with it" if name not in available else "no NVIDIA GPU is found"
            raise UserError(f"{name} cannot be had here: {why}", f"those that can: {', '.join(_at_hand(available))}")
        names.append(name)
    return [*dict.fromkeys(name for name in names if name != CPU), CPU]


def _at_hand(available: Sequence[str]) -> list[str]:
    gpu = _has_gpu()
    return [name for name in available if gpu or name not in _ON_GPU]


def _require(session: onnxruntime.InferenceSession, wanted: Sequence[str]) -> None:
    """Raises UserError where onnxruntime left one out, as it does where a library of it does not load."""
    missing = [name for name in wanted if name not in session.get_providers()]
    if missing:
        raise UserError(
            f"{missing[0]} cannot be had here: onnxruntime has it, but its libraries do not load",
            "install CUDA and cuDNN, and for TensorRT its libraries (libnvinfer), or ask for others: it runs on "
            + ", ".join(session.get_providers()),
        )


def _has_gpu() -> bool:
    """Whether the driver finds a GPU: onnxruntime lists CUDA, and complains loudly, without one too."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
