"""The user's list of images to leave out, `prepare.exclude`: one path relative to data.root a line."""

import csv
import difflib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from transferline import sections
from transferline.data.inspection import Rejection
from transferline.data.sources import Layout
from transferline.errors import UserError

DEFAULT = sections.Prepare().exclude
_CLOSE = 0.5  # similarity of a path that is worth naming
_COMPARED = 5000  # paths at most: comparing takes tens of microseconds each


def apply(layout: Layout, name: str) -> tuple[Layout, list[Rejection]]:
    """`layout` without the files that the list names, and those, each with its reason.

    Args:
        name: the list's path from the project's root.

    Raises:
        UserError: the list is missing, unless it is the default one, cannot be read, or names what does not exist.
    """
    listed = read(Path(name), layout)
    files = [file for file in layout.files if file.path not in listed]
    left_out = [Rejection(file.path, f"excluded by {name}") for file in layout.files if file.path in listed]
    return replace(layout, files=files), left_out


def read(path: Path, layout: Layout) -> set[str]:
    """Paths, each as it is in a line, or as the first cell of a line that was copied from a CSV; `#` begins a comment.

    Raises:
        UserError: as `apply`, naming the line.
    """
    if path.as_posix() == DEFAULT and not path.exists():
        return set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:  # a name may contain a carriage return
            lines = [f"{line}\n" for line in stream.read().split("\n")]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"prepare.exclude: {path} cannot be read: {error.strerror}",
            "make that file; an empty one leaves nothing out",
        ) from None
    known = {file.path for file in layout.files} | set(layout.strays)
    return {_known(path, line, text, known, layout.root) for line, text in _entries(lines, known)}


def _entries(lines: list[str], known: Collection[str]) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and paths. A quoted path may go over several lines."""
    line = 0
    while line < len(lines):
        first, raw = line, lines[line].rstrip("\r\n")
        text = raw.strip()
        line += 1
        if raw in known or text in known:
            yield first + 1, raw if raw in known else text
        elif text and not text.startswith("#"):
            reader = csv.reader(lines[first:])
            yield first + 1, next(reader)[0]
            line = first + reader.line_num


def _known(path: Path, line: int, text: str, known: Collection[str], root: Path) -> str:
    """The path that is meant. Raises UserError with the nearest one where there is none."""
    given = PurePosixPath(text.replace("\\", "/")).as_posix()
    for meant in (text, given, given.removeprefix(f"{root.as_posix()}/")):
        if meant in known:
            return meant
    close = _nearest(given, known)
    fix = f"did you mean '{close}'?" if close else "paths are relative to data.root; a comment begins with #"
    raise UserError(f"{path}, line {line}: '{text}' does not exist in data.root, '{root}'", fix)


def _nearest(given: str, known: Collection[str]) -> str | None:
    """The same name in another folder, else the most similar path of that folder, else of all."""
    name, folder = PurePosixPath(given).name, PurePosixPath(given).parent
    same = sorted(path for path in known if PurePosixPath(path).name == name)
    beside = sorted(path for path in known if PurePosixPath(path).parent == folder)
    for choices in (same, beside, sorted(known)):
        if close := difflib.get_close_matches(given, choices[:_COMPARED], n=1, cutoff=_CLOSE):
            return close[0]
    return same[0] if same else None
