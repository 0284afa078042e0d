"""What lies between a write and the platter: syncing, putting in place, and sweeping up after the killed."""

import ctypes
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from transferline import processes

_FEW = 32  # files that are synced one by one; more at once, with all else that the file system holds back


def temporary(path: Path, kind: str = "") -> Path:
    """Where this process writes what becomes `path`: beside it, under the same suffix, since many writers go by it."""
    return path.with_name(f".{path.stem}.{kind}{os.getpid()}{path.suffix}")


def sweep(path: Path) -> None:
    """Take away what this process, or one that was killed, has left of a write of `path`."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.(?:old\.)?(\d+){re.escape(path.suffix)}")
    for entry in path.parent.iterdir():
        found = name.fullmatch(entry.name)
        if found and (int(found[1]) == os.getpid() or processes.identity(int(found[1])) is None):
            with suppress(OSError):  # what it hinders, if anything, is said by the write
                remove(entry)


def remove(path: Path) -> None:
    """Take away a file, a link, or a folder with all that is in it, whether or not it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, outlive a loss of power. Raises OSError where it cannot."""
    if not path.is_dir():
        _sync_file(path)
        return
    below = [Path(folder) / name for folder, names, files in os.walk(path) for name in (*names, *files)]
    if len(below) > _FEW and _sync_all(path):
        return
    for entry in below:
        if entry.is_dir():
            sync_folder(entry)
        elif not entry.is_symlink():
            _sync_file(entry)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Have the names in a folder outlive a loss of power, where the system can (Windows does by itself)."""
    if os.name == "posix":
        _sync_descriptor(path, os.O_RDONLY)


def put(partial: Path, path: Path, *, lasting: bool) -> None:
    """Give `partial` the name `path`, for good where `lasting`; a folder that has it makes room between two renames."""
    if not partial.is_dir() or not (path.exists() or path.is_symlink()):
        partial.replace(path)
    else:
        old = temporary(path, "old.")
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        with suppress(OSError):  # what is new is in place; the next writer sweeps
            remove(old)
    if lasting:
        sync_folder(path.parent)


def distrust(path: Path) -> None:
    """Have DVC look at the file, and at what it is a link to in DVC's cache, instead of going by time and mode.

    DVC takes a file whose time has not changed, and a read-only one in its cache, for what it was: 'dvc repro' would
    pass over this one, or bring it back from the cache as it is.
    """
    with suppress(OSError):  # missing, or another's
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        os.utime(path)


def _sync_file(path: Path) -> None:
    _sync_descriptor(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)


def _sync_descriptor(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> bool:
    """Linux's syncfs, on the file system of `folder`: 2,000 files in the time of 130. False where there is none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if os.name == "posix" else None
    if call is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if call(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
    return True
