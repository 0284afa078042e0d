"""Files of a training's state: written whole, checked on reading, and read without running what is in them."""

import hashlib
import io
import pickle
import random
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from transferline.artifacts import atomic

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
State = dict[str, Any]  # of tensors, numbers, text, and lists and dictionaries of these
_DIGEST = 32  # bytes of a sha256, the file's end


class DamagedError(ValueError):
    """A file that was cut off or changed, or holds what is not read: objects of classes of their own."""


class _Hashing(io.RawIOBase):
    """Passes on what is written, and digests it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.stream.write(data)


def write(state: State, path: Path) -> None:
    """Write `state`, then its sha256; a `last.ckpt` that was there becomes `previous.ckpt` once the new one is whole.

    Raises:
        UserError: where the file system does not take it.
    """
    with atomic(path) as partial:
        with partial.open("wb") as stream:
            hashing = _Hashing(stream)
            torch.save(state, cast("IO[bytes]", hashing))
            stream.write(hashing.digest.digest())
        if path.name == LAST and path.exists():
            path.replace(path.with_name(PREVIOUS))


def read(path: Path) -> State:
    """What `write` wrote, on the CPU. Raises DamagedError."""
    try:
        state: State = torch.load(io.BytesIO(check(path)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DamagedError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return state


def check(path: Path) -> memoryview:
    """The file without its digest. Raises DamagedError where that is another one."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise DamagedError(f"{path} is damaged")
    return data[:-_DIGEST]


class Files(CheckpointIO):
    """Lightning's reading and writing, by the functions above.

    Attributes:
        needed: names of files that a kept state counts on. They stay when Lightning would remove them.
    """

    def __init__(self) -> None:
        self.needed: set[str] = set()

    def save_checkpoint(self, checkpoint: State, path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> State:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        if Path(path).name not in self.needed:
            Path(path).unlink(missing_ok=True)


def generators() -> State:
    """Where every random generator stands: Python's, numpy's, torch's on the CPU and on each GPU."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        "python": random.getstate(),
        "numpy": [str(name), keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_generators(state: State) -> None:
    """Put every random generator back to where `generators` found it."""
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    for device, position in enumerate(state["cuda"][: torch.cuda.device_count()]):  # there may be fewer than before
        torch.cuda.set_rng_state(position, device)
