"""One process at a time: for each stage in a working folder, and for each folder that a stage goes on from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transferline import artifacts
from transferline.errors import UserError

LOCKS = Path(".cache/locks")  # in the working folder: experiments in copies of their own do not wait for each other


@contextmanager
def alone(stage: str) -> Iterator[None]:
    """Hold `stage` in this working folder; wait, and say so once, where another process has it.

    That other one is an orphan of a `dvc` that was killed and still saves, or a second `dvc repro`: two would write
    the same outputs. The lock is the kernel's, so that it ends with its holder, however that ends.

    Raises:
        UserError: where no lock can be made.
    """
    from filelock import FileLock, Timeout

    holder = LOCKS / f"{stage}.pid"
    lock = FileLock(LOCKS / f"{stage}.lock")
    with made(LOCKS):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{stage}: waiting for {_named(holder)}, which is at this stage in this folder", flush=True)
            lock.acquire()
    try:
        artifacts.write_text(holder, f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold `folder`, which need not be there yet; False where another process has it. Nothing is waited for.

    The lock's file goes with the folder: filelock looks whether what it has locked is still in its place.
    """
    from filelock import FileLock, Timeout

    file = folder.with_name(f"{folder.name}.lock")
    lock = FileLock(file)
    try:
        with made(folder.parent):
            lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if not folder.exists():
            with suppress(OSError):  # Windows removes no open file
                file.unlink()
        lock.release()


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder for a block that opens files in it. Raises UserError where that cannot be."""
    from filelock import Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except Timeout:  # an OSError too
        raise
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}", "make room, or give write permission"
        ) from None


def _named(holder: Path) -> str:
    with suppress(OSError, ValueError):
        return f"process {int(holder.read_text())}"
    return "another process"
