"""Reading that names the broken file, writing that leaves the old file or the new one, and digests."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transferline.errors import UserError

AGAIN = "delete it, and 'dvc repro' makes it again"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block succeeds.

    The temporary name keeps the suffix, since many writers go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or is no JSON."""
    with readable(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns (lists or 1-D arrays of one length) as a Parquet file."""
    with atomic(path) as partial:
        pq.write_table(pa.table(columns), partial)


def read_table(path: Path, needed: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The columns of a Parquet file, as Python lists.

    Raises:
        UserError: where it cannot be read, or lacks a column of `needed`.
    """
    with readable(path):
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    for name in needed:
        if name not in columns:
            raise UserError(f"{path} lacks the column '{name}'", AGAIN)
    return columns


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of a block that reads `path` into a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "'dvc repro' makes it") from None
    except (ValueError, OSError, EOFError) as error:  # pyarrow's ArrowInvalid and JSONDecodeError are ValueErrors
        raise UserError(f"{path} cannot be read: {error}", AGAIN) from None


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's relative names and contents in sorted order.

    What does not exist has the digest of an empty folder: whoever reads it says best what is wrong.
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        name = os.fsencode(file.relative_to(path).as_posix())  # a name need not be UTF-8
        digest.update(name + f"\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def input_hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {path.as_posix(): sha256(path) for path in paths}
