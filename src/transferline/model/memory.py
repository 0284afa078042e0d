"""What a CPU's memory costs in training, and what to do where memory does not suffice."""

import ctypes
import gc
import platform
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from transferline.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)
_REFUSALS = (  # what an allocator says in a RuntimeError of no type of its own
    "can't allocate memory",  # torch's on a CPU
    "cannot allocate memory",  # what the system's own words are
    "not enough memory",  # the same, on Windows
    "out of memory",  # CUDA's, MPS's
    "could not create a primitive",  # oneDNN's, which does not say why
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
)
HELP = (
    "take a smaller input (model.input_size), more frozen blocks (tune.start.freeze_depth,"
    " tune.search.freeze_depth.low), or a smaller backbone ('transferline backbones' lists them); or free memory"
)

T = TypeVar("T")


def keep_freed() -> bool:
    """Have the C library keep what is freed for the next step; whether it could be told so.

    glibc maps every tensor beyond 32 MB anew and gives it back when it is freed, so each step has the system zero
    each of its pages again: up to half of a training step on a CPU (`benchmarks/step.py`). The process
    keeps the memory of its largest step until it ends. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def ran_out(error: BaseException) -> bool:
    """Whether the error says that memory, of a GPU or of the host, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _REFUSALS)


def release(error: BaseException) -> None:
    """Free what the frames that an error came through still hold, and what allocators keep for later."""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # see keep_freed
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Halving(Generic[T]):
    """A function of a batch that is given half of it, for good, wherever it runs out of memory.

    Args:
        run: whose answer for a row does not depend on the others of its batch.
        label: starts the line that says so.
    """

    def __init__(self, run: Callable[[npt.NDArray[Any]], T], label: str) -> None:
        self.run, self.label = run, label
        self.most: int | None = None  # rows that fit, as far as is known

    def __call__(self, rows: npt.NDArray[Any]) -> list[T]:
        """What it gives for the rows, [B, ...], in order and in as many parts as it takes.

        Raises:
            UserError: where not even one row fits.
        """
        if self.most is not None and len(rows) > self.most:
            return [part for piece in _pieces(rows, self.most) for part in self(piece)]
        try:
            return [self.run(rows)]
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            release(error)
        if len(rows) == 1:
            raise UserError(f"{self.label}: one image alone does not fit into memory", HELP)
        self.most = len(rows) // 2
        print(f"{self.label}: a batch of {len(rows)} does not fit into memory: {self.most} from here on", flush=True)
        return self(rows)


def _pieces(rows: npt.NDArray[Any], size: int) -> list[npt.NDArray[Any]]:
    return np.array_split(rows, -(-len(rows) // size))
