"""Activations on disk: written front to back under a temporary name, checked when opened, memory-mapped."""

import json
import math
import os
import shutil
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transferline.artifacts import read_array, read_json, write_header

_VALUES, _ENTRY = "activations.npy", "entry.json"
_CHUNK = 1 << 24  # bytes read at once
_NUMPY: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2")}


class UnfitError(Exception):
    """Why activations cannot be kept, in a few words."""


@dataclass(frozen=True)
class Entry:
    """What is known of the values, kept as entry.json beside them.

    Attributes:
        depth: blocks that gave them.
        dtype: float16, float32 or bfloat16.
        shape: [N, V, ...boundary].
        crc32: of the values' bytes.
        engine: that computed them.
    """

    depth: int
    dtype: str
    shape: tuple[int, ...]
    crc32: int = 0
    engine: str = ""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _NUMPY[self.dtype].itemsize


@dataclass(frozen=True)
class Stored:
    """One split behind one depth: [N, V, ...boundary], memory-mapped; bfloat16 as the uint16 of its bits."""

    values: npt.NDArray[Any]
    entry: Entry

    def take(self, rows: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> Tensor:
        """[B, ...boundary] in the dtype that is stored: of each row, one view."""
        picked = torch.from_numpy(self.values[rows, views])
        return picked.view(torch.bfloat16) if self.entry.dtype == "bfloat16" else picked


class Clean:
    """View 0 of each image of what is stored: a slice of it is [B, ...boundary] in float32, converted when taken."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored.values)

    def __getitem__(self, part: slice) -> npt.NDArray[np.float32]:
        rows = np.arange(len(self))[part]
        taken: npt.NDArray[np.float32] = self.stored.take(rows, np.zeros_like(rows)).float().numpy()
        return taken


def entries(root: Path) -> list[Path]:
    """The folders of all whole entries below `root`, the one used longest ago first."""
    return [file.parent for file in sorted(root.glob(f"*/*/{_ENTRY}"), key=lambda file: file.stat().st_mtime)]


def size(folder: Path) -> int:
    """Bytes of an entry; 0 where another process has just evicted it."""
    values = folder / _VALUES
    return values.stat().st_size if values.exists() else 0


def open_entry(folder: Path, *, check: bool = True) -> Stored | None:
    """The entry, marked as used now; None where there is none. One that is damaged is removed, with a line.

    Args:
        check: read all of it, and compare with its checksum.
    """
    if not folder.exists():
        return None
    try:
        known = read_json(folder / _ENTRY)
        entry = Entry(**known | {"shape": tuple(known["shape"])})
        values = read_array(folder / _VALUES, mapped=True)
        right = values.shape == entry.shape and values.dtype == _NUMPY[entry.dtype] and values.flags.c_contiguous
        if right and (not check or _crc32(folder / _VALUES, values.nbytes) == entry.crc32):
            os.utime(folder / _ENTRY)
            return Stored(values, entry)
    except (ValueError, TypeError, KeyError, OSError):
        pass  # whatever is wrong with it, it is made again
    print(f"{folder} is damaged: it is computed again", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return None


class Writer:
    """A new entry, under a temporary name until `finish`; nothing of it stays where the block fails.

    Whoever writes must hold the lock of the entry's key: the temporary name is the same for all, so that what a
    killed process has left is taken away by the next.
    """

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.folder, self.entry = folder, entry
        self.partial = folder.with_name(f".{folder.name}")
        self.crc32 = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self.stream = (self.partial / _VALUES).open("wb")
        write_header(self.stream, _NUMPY[self.entry.dtype], self.entry.shape)
        return self

    def write(self, values: npt.NDArray[np.float32]) -> None:
        """Append [B, ...boundary].

        Raises:
            UnfitError: where a value is beyond the dtype.
            OSError: where the disk is full.
        """
        data = _packed(values, self.entry.dtype).data.cast("B")
        self.crc32 = zlib.crc32(data, self.crc32)
        self.stream.write(data)

    def finish(self, engine: str) -> None:
        """Give the entry its name."""
        self.stream.close()
        known = asdict(self.entry) | {"crc32": self.crc32, "engine": engine}
        (self.partial / _ENTRY).write_text(json.dumps(known), encoding="utf-8")
        self.partial.replace(self.folder)  # not synced: what a loss of power takes of it is seen by its checksum

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(OSError):  # on a full disk, what is buffered cannot be written either
            self.stream.close()
        shutil.rmtree(self.partial, ignore_errors=True)


def _packed(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    cast = torch.from_numpy(values).to(getattr(torch, dtype))  # several times as fast as numpy's
    if cast.isinf().any():
        raise UnfitError(f"values are beyond {dtype} (activations.dtype: bfloat16 would hold them)")
    packed: npt.NDArray[Any] = (cast.view(torch.uint16) if dtype == "bfloat16" else cast).contiguous().numpy()
    return packed


def _crc32(path: Path, size: int) -> int:
    """Of the last `size` bytes."""
    found = 0
    with path.open("rb") as stream:
        stream.seek(-size, os.SEEK_END)
        while chunk := stream.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found
