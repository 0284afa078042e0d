"""Reading that names the broken file, and writing that leaves the old file or the new one."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from transferline import system
from transferline.artifacts import disk
from transferline.errors import UserError

AGAIN = "delete it, and 'dvc repro' makes it again"
_DIGEST = b"transferline.sha256"
_under_way: dict[Path, Path] = {}  # temporary name -> final name, of what this process is writing


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder; give it its name when the block succeeds.

    Whatever happens, be it a loss of power, `path` is then the old one or the new one; a folder, that or missing.
    The temporary is taken away, or by the next writer where this one is killed. It keeps the suffix.

    Raises:
        UserError: with what to do, where the disk is full, or something else keeps one from writing.
    """
    partial = disk.temporary(path)
    inner = _final(path) != path  # in a folder under way, which is synced as a whole
    _under_way[partial] = path
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            disk.sweep(path)
            yield partial
            if not inner:
                disk.sync(partial)
            disk.put(partial, path, lasting=not inner)
    finally:
        del _under_way[partial]
        with suppress(OSError):  # must not hide what happened
            disk.remove(partial)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what keeps a block from writing `path`, as a full disk, into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = _refused(error, path)
        if refused is None:
            raise
        raise refused from None


def _refused(error: Exception, path: Path) -> UserError | None:
    """None where the error is not the machine's, or is about something else than `path` or what is in it."""
    name = _final(path)
    given = (getattr(error, key, None) for key in ("filename", "filename2"))
    about = [_final(Path(each)) for each in given if isinstance(each, str)]
    inside = [each for each in about if each.absolute().is_relative_to(name.absolute())]
    above = [each for each in about if name.absolute().is_relative_to(each.absolute())]
    if about and not inside and not above:
        return None
    if above and isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):  # of mkdir, of rename
        taken = f"{above[0]} is {'a' if above[0].is_dir() else 'no'} folder"
        return UserError(f"{name} cannot be written: {taken}", "move it away; 'dvc repro' then goes on")
    name = inside[0] if inside else name
    found = system.reason(system.filling(error, path.parent), name.parent)
    return UserError(f"{name} cannot be written: {found[0]}", found[1]) if found else None


def _final(path: Path) -> Path:
    """The name that `path` will have, be it in a folder that is under way."""
    for parent in (path, *path.parents):
        if parent in _under_way:
            return _final(_under_way[parent] / path.relative_to(parent))
    return path


def write_text(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Lines end in a line feed; a field that holds one, or a carriage return, is quoted."""
    write_text(path, "".join(csv_line(row) for row in [header, *rows]))


def csv_line(row: Sequence[object]) -> str:
    """One row of a CSV file, with its line feed; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # which quotes what holds a character of its terminator
    return text.getvalue().removesuffix("\r\n") + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or is no JSON."""
    with readable(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns (lists or 1-D arrays of one length) as a Parquet file, with a digest of them."""
    table = pa.table(columns)
    table = table.replace_schema_metadata({_DIGEST: _digest(table.to_pydict())})
    with atomic(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True)


def read_table(path: Path, needed: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The columns of a Parquet file, as Python lists.

    Raises:
        UserError: where it cannot be read, or lacks a column of `needed`.
    """
    with readable(path):
        table = pq.read_table(path, page_checksum_verification=True)
        columns: dict[str, list[Any]] = table.to_pydict()
        stated = (table.schema.metadata or {}).get(_DIGEST)  # pages have checksums, what is said of them has none
        if stated is not None and stated != _digest(columns):
            raise ValueError("it is not what was written")
    for name in needed:
        if name not in columns:
            raise UserError(f"{path} lacks the column '{name}'", again(path))
    return columns


def _digest(columns: dict[str, list[Any]]) -> bytes:
    return hashlib.sha256(repr(columns).encode("utf-8", "surrogatepass")).hexdigest().encode()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of a block that reads `path` into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "'dvc repro' makes it") from None
    except (ValueError, OSError, EOFError, RecursionError, pa.ArrowException) as error:  # JSON's is a ValueError
        refused = system.reason(system.code(error), path)
        if refused:
            raise UserError(f"{path} cannot be read: {refused[0]}", refused[1]) from None
        raise UserError(f"{path} cannot be read: {error}", again(path)) from None


def unfit(path: Path, error: ValidationError) -> UserError:
    """The first key of a file whose value is not what it should be, with that value."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    what = f"{key}: {first['input']!r} is out of range" if first["type"] != "missing" else f"it lacks '{key}'"
    return UserError(f"{path}: {what}", again(path))


def again(path: Path) -> str:
    """How to have a damaged file made again; DVC is made to see that it is damaged."""
    disk.distrust(path)
    return AGAIN
