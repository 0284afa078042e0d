"""Arrays in numpy's .npy format, version 1.0, written by calls that say why they fail, and measured before mapping."""

import math
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from transferline.artifacts.files import atomic, readable

# What numpy raises on a damaged header, beside ValueError.
_DAMAGE = (SyntaxError, tokenize.TokenError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)


def write_header(stream: BinaryIO, dtype: npt.DTypeLike, shape: Sequence[int]) -> None:
    """Begin a file whose values, in C order, the caller appends.

    Writing into a memory map would end the process without a word (SIGBUS) where the disk is full.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, header)


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a whole array. numpy's own save does not tell why it failed."""
    with atomic(path) as partial, partial.open("wb") as stream:
        write_header(stream, values.dtype, values.shape)
        stream.write(values.tobytes())


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """An array in memory, or memory-mapped read-only.

    Raises:
        UserError: where the file is missing or damaged, or its size is not what its header says.
    """
    with readable(path):
        try:
            size, length = path.stat().st_size, _length(path)
            if size != length:
                raise ValueError(f"it has {size} bytes, and should have {length}")
            values: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
        except _DAMAGE:
            raise ValueError("its header is damaged") from None
    return values


def _length(path: Path) -> int:
    """How many bytes a file must have by its header."""
    with path.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("it is not of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return stream.tell() + math.prod(shape) * dtype.itemsize
