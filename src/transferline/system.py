"""What the machine refuses, in words: a full disk, a folder one may not write into, memory that is used up."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GOES_ON = "'dvc repro' then goes on"

_IN_TEXT = re.compile(r"(?:\[Errno |\[errno |\(os error )(\d+)")  # of C and Rust libraries, and of worker processes
_NEXT_TO_NOTHING = 1 << 16  # bytes free: a library that fails for no reason given has met the end of the disk
_SQLITE = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC}  # its result codes READONLY, IOERR and FULL
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ASKS_FOR_RIGHTS = {errno.EACCES, errno.EPERM}
_BROKEN = dict.fromkeys(
    (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE),
    ("the disk reports an error", f"check the disk, as with 'dmesg', or move the project to another; {GOES_ON}"),
)
_REASONS = _BROKEN | {
    errno.EDQUOT: ("your quota of the disk is used up", f"free some space, or have it raised; {GOES_ON}"),
    errno.EROFS: ("the file system is read-only", f"mount it writable, or move the project to another; {GOES_ON}"),
    errno.ENAMETOOLONG: (
        "the name is too long for the file system",
        f"move the project into a folder with a shorter path; {GOES_ON}",
    ),
    errno.EFBIG: ("the file is larger than the file system or 'ulimit -f' allows", f"raise the limit; {GOES_ON}"),
    errno.EMFILE: ("too many files are open", f"allow more, as with 'ulimit -n 4096'; {GOES_ON}"),
    errno.ENFILE: ("too many files are open on this machine", f"close other programs; {GOES_ON}"),
    errno.ENOMEM: (
        "memory is used up",
        f"close other programs, or lower the batch size, the workers or model.input_size; {GOES_ON}",
    ),
}


def code(error: BaseException) -> int | None:
    """The errno of an exception, be it in its text alone; None where it has none."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is not None:
        return int(number)
    if _of_sqlite(error):
        return _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    found = _IN_TEXT.search(str(error))
    return int(found[1]) if found else None


def filling(error: BaseException, folder: Path) -> int | None:
    """As `code`, but an error that gives no reason, while the disk of `folder` is full, is that of a full disk."""
    number = code(error)
    if number is None and isinstance(error, OSError | RuntimeError) and free(folder) < _NEXT_TO_NOTHING:
        return errno.ENOSPC
    return number


def reason(number: int | None, path: Path) -> tuple[str, str] | None:
    """Why the machine refuses something about `path`, and what to do; None where `number` is no such reason."""
    folder = existing(path)
    if number == errno.ENOSPC:
        return f"the disk is full ({_room(folder)} of {folder})", f"{_how_to_free(folder)}; {GOES_ON}"
    if number in _ASKS_FOR_RIGHTS:
        rights = f"'chmod -R u+rwX {folder}', or 'sudo chown -R \"$(id -un)\" {folder}'"
        return "permission is denied", f"make {folder} yours: {rights}; {GOES_ON}"
    return _REASONS.get(number) if number is not None else None


def untranslated(error: BaseException) -> tuple[str, str] | None:
    """What happened, and what to do, where an error that nobody expected is the machine's, not the program's.

    That is an OSError or MemoryError for one of the reasons above, or anything raised on account of a full disk or
    of a database that cannot be written.
    """
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return "no folder for temporary files can be written", f"free some space, or set TMPDIR; {GOES_ON}"
    for cause in _chain(error):
        number = code(cause)
        own = cause is error and isinstance(cause, OSError | MemoryError)
        if not own and not _of_sqlite(cause) and not (isinstance(cause, OSError) and number in _FULL):
            continue
        name = getattr(cause, "filename", None)
        path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None
        found = reason(number, path or _fullest())
        if found:
            where = path or ("the database of runs" if _of_sqlite(cause) else None)
            return f"{where}: {found[0]}" if where else found[0], found[1]
    return None


def free(folder: Path) -> int:
    """Bytes that one may still write on the disk of `folder`, or of what exists above it."""
    return shutil.disk_usage(existing(folder)).free


def existing(path: Path) -> Path:
    """The nearest folder at or above `path` that exists, absolute."""
    path = path.absolute()
    for folder in (path, *path.parents):
        with suppress(OSError):
            if folder.is_dir():
                return folder
    return Path(path.anchor)


def _of_sqlite(error: BaseException) -> bool:
    return type(error).__module__ == "sqlite3"  # by its name, so as not to import it


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _room(folder: Path) -> str:
    left = free(folder)
    if left >= _NEXT_TO_NOTHING and getattr(os.statvfs(folder), "f_favail", 1) == 0:
        return "no further file can be made on the disk"
    return f"{left / 1e6:.1f} MB are free on the disk"


def _how_to_free(folder: Path) -> str:
    temporary = Path(tempfile.gettempdir()) if tempfile.tempdir else None
    if temporary and folder.is_relative_to(temporary):
        return "free some space there, or set TMPDIR to a folder with room"
    return "free some space (.cache/activations may be emptied)"


def _fullest() -> Path:
    """Where a library met the end of a disk and did not say of which: the project's, or that of temporary files."""
    places = [Path.cwd()] + ([Path(tempfile.tempdir)] if tempfile.tempdir else [])
    return min(places, key=free)
