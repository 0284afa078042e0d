"""A CSV of labels beside the images: which labels each image has and, where there is such a column, its split."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transferline.artifacts import SplitName
from transferline.errors import UserError, nearest
from transferline.labelsets import SEPARATOR, join, names_of

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_PATHS = ("path", "image", "filename", "file")  # headers of the first column
_LISTS = ("labels", "tags")  # of a column of label names
_SPLIT = "split"
_FORMATS = "beside the path, give a column 'labels' with names separated by ';', or a 0/1 column for each label"


class Labelled(NamedTuple):
    """A row of the file."""

    path: str  # relative to data.root, with forward slashes
    label: str  # names joined as in the manifest; empty for none
    split: SplitName | None
    line: int


class _Row(NamedTuple):
    line: int
    cells: list[str]


class _Columns(NamedTuple):
    """Where in a row things stand."""

    listed: int | None  # the column of label names; None where there is a 0/1 column for each label
    flags: Mapping[int, str]  # column -> label
    split: int | None


def read(file: Path) -> list[Labelled]:
    """Every row of `file`: UTF-8 with or without a byte-order mark, any line ends, commas between the columns.

    The first column holds paths. Labels stand in one column of names, separated by `;`, by `|` or by
    commas without spaces, or in a column of 0 and 1 for each label. A column `split` may say train, val or test.

    Raises:
        UserError: naming the line, where the file is not like this, a path comes twice, a label has no
            images, or there are fewer than two labels.
    """
    header, *rows = _rows(file)
    columns = _columns(file, header)
    separator = _separator(file, rows, columns.listed)
    found = [
        Labelled(
            _path(file, row), join(_names(file, row, columns, separator)), _split(file, row, columns.split), row.line
        )
        for row in rows
    ]
    _require_unique(file, found)
    _require_labels(file, found, columns)
    return found


def _mistake(file: Path, line: int, what: str, fix: str) -> UserError:
    return UserError(f"{file}, line {line}: {what}", fix)


def _rows(file: Path) -> list[_Row]:
    """The rows that are not blank, the header first, all of one length."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text", "save it as CSV UTF-8") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", "it must be a file that you may read") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [_Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise _mistake(file, reader.line_num, f"not valid CSV: {error}", "mend that line") from None
    if len(rows) < 2:
        raise UserError(f"{file} holds no images", "give it a header and one row an image")
    width = len(rows[0].cells)
    for row in rows:
        if len(row.cells) != width:
            what = f"{len(row.cells)} columns, where the header has {width}"
            raise _mistake(file, row.line, what, 'put a value that contains a comma into quotes: "cat,dog"')
    return rows


def _columns(file: Path, header: _Row) -> _Columns:
    line, names = header
    lower = [name.lower() for name in names]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise _mistake(file, line, f"one column only: '{names[0]}'", "save it with commas between the columns")
    if lower[0] not in _PATHS:
        what = f"the first column is '{names[0]}'"
        raise _mistake(file, line, what, f"it must hold the paths, and be called one of: {', '.join(_PATHS)}")
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            what = (
                f"column {index + 1} has the name of another, '{name}'" if name else f"column {index + 1} has no name"
            )
            raise _mistake(file, line, what, "give each column a name of its own")
    split = lower.index(_SPLIT) if _SPLIT in lower else None
    rest = [index for index in range(1, len(names)) if index != split]
    listed = next((index for index in rest if lower[index] in _LISTS), None)
    if listed is not None:
        if unknown := [names[index] for index in rest if index != listed]:
            fix = f"beside '{names[0]}' and '{names[listed]}' only '{_SPLIT}' is known: take the column away"
            raise _mistake(file, line, f"unknown column '{unknown[0]}'", fix)
        return _Columns(listed, {}, split)
    _require_flags(file, line, [names[index] for index in rest])
    return _Columns(None, {index: names[index] for index in rest}, split)


def _require_flags(file: Path, line: int, names: Sequence[str]) -> None:
    if not names:
        raise _mistake(file, line, "there are no labels", _FORMATS)
    if len(names) == 1:
        raise _mistake(file, line, f"'{names[0]}' is the only column of labels", _FORMATS)
    for name in names:
        if SEPARATOR in name:
            what = f"the label '{name}' contains '{SEPARATOR}'"
            raise _mistake(file, line, what, f"rename it: '{SEPARATOR}' stands between labels")


def _separator(file: Path, rows: Sequence[_Row], listed: int | None) -> str:
    """What stands between names in the whole of the column; a comma where neither ; nor | occurs."""
    if listed is None:
        return SEPARATOR
    cells = [(row.line, row.cells[listed]) for row in rows]
    first = {mark: line for mark in ";|" for line, cell in reversed(cells) if mark in cell}
    if len(first) > 1:
        line = max(first.values())
        raise _mistake(file, line, "labels are separated by ';' and, elsewhere, by '|'", "write ';' everywhere")
    if first:
        return next(iter(first))
    for line, cell in cells:
        if ", " in cell:
            what = f"'{cell}' may be one label with a comma in it, or several"
            raise _mistake(file, line, what, "separate labels by ';', or by commas without spaces")
    return ","


def _path(file: Path, row: _Row) -> str:
    text = row.cells[0].replace("\\", "/")
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts:
        raise _mistake(file, row.line, f"'{row.cells[0]}' is no path inside data.root", "give it relative to data.root")
    return path.as_posix()


def _names(file: Path, row: _Row, columns: _Columns, separator: str) -> Iterator[str]:
    if columns.listed is not None:
        yield from {name.strip() for name in row.cells[columns.listed].split(separator)} - {""}
    for index, name in columns.flags.items():
        cell = row.cells[index]
        if cell not in ("0", "1"):
            fix = "write 0 or 1; a column that is no label must be taken away"
            raise _mistake(file, row.line, f"'{name}' holds '{cell}'", fix)
        if cell == "1":
            yield name


def _split(file: Path, row: _Row, column: int | None) -> SplitName | None:
    if column is None:
        return None
    given = row.cells[column].lower()
    if given not in SPLIT_NAMES:
        what = f"'{row.cells[column]}' is no split"
        raise _mistake(file, row.line, what, nearest(given, ("train", "val", "test")))
    return SPLIT_NAMES[given]


def _require_unique(file: Path, found: Sequence[Labelled]) -> None:
    lines: dict[str, int] = {}
    for row in found:
        if row.path in lines:
            what = f"'{row.path}' stands in line {lines[row.path]} already"
            raise _mistake(file, row.line, what, "keep one row an image")
        lines[row.path] = row.line


def _require_labels(file: Path, found: Sequence[Labelled], columns: _Columns) -> None:
    used = {name for row in found for name in names_of(row.label, multilabel=True)}
    if unused := [name for name in columns.flags.values() if name not in used]:
        raise UserError(f"{file}: no image has the label '{unused[0]}'", "take its column away, or add images of it")
    if len(used) < 2:
        held = f"one label only, '{next(iter(used))}'" if used else "no labels"
        raise UserError(f"{file} holds {held}", f"two or more are needed: {_FORMATS}")
