"""SHA-256 of files and folders, large files several at a time: hashlib lets go of the interpreter's lock."""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from transferline import cores

_CHUNK = 1 << 18  # bytes read at a time
_LARGE = 1 << 20  # bytes from which a file is worth handing to a thread
_THREADS = 8  # at most: beyond, the disk is what one waits for

Files = dict[str, str]  # path as given, with slashes, -> hex digest


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's relative names and contents in sorted order.

    What does not exist has the digest of an empty folder: whoever reads it says best what is wrong.
    """
    return folded(path, file_hashes([path]))


def file_hashes(paths: Iterable[Path]) -> Files:
    """The digest of every file among `paths`, and of those at any depth in the folders among them."""
    sizes = {name: size for path in paths for name, size in _files(path)}
    large = [name for name, size in sizes.items() if size >= _LARGE]
    pool = ThreadPoolExecutor(min(_THREADS, cores.usable()))
    try:
        begun = {name: pool.submit(_file_hash, name) for name in large}
        hashes = {name: _file_hash(name) for name in sizes if name not in begun}
        return hashes | {name: future.result() for name, future in begun.items()}
    finally:
        pool.shutdown(cancel_futures=True)  # where a signal ends the wait, what is still queued is dropped


def folded(path: Path, hashes: Mapping[str, str]) -> str:
    """`sha256(path)`, from the digests of its files, which may be among others."""
    name = path.as_posix()
    if name in hashes:
        return hashes[name]
    prefix = "" if name == "." else f"{name.rstrip('/')}/"
    digest = hashlib.sha256()
    for file in sorted(file for file in hashes if file.startswith(prefix)):
        digest.update(os.fsencode(file[len(prefix) :]) + f"\0{hashes[file]}\n".encode())  # it need not be UTF-8
    return digest.hexdigest()


def _files(path: Path) -> Iterable[tuple[str, int]]:
    """Name and bytes of the file itself, or of those in the folder at any depth; linked folders are not entered."""
    places = (Path(at, name) for at, _, names in os.walk(path) for name in names) if path.is_dir() else (path,)
    for place in places:
        with suppress(OSError):  # a broken link, or gone
            found = place.stat()
            if stat.S_ISREG(found.st_mode):
                yield place.as_posix(), found.st_size


def _file_hash(name: str) -> str:
    """That of a file that may not be read is a word: whoever reads it says best what is wrong."""
    digest = hashlib.sha256()
    try:
        with Path(name).open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return "unreadable"
    return digest.hexdigest()
