"""What `transferline predict` is given: files, folders, or an image on standard input."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from transferline.data import images
from transferline.data.hashable import printable
from transferline.data.images import ImageError
from transferline.errors import UserError

STDIN = "-"


class Input(NamedTuple):
    """An image to classify: its name as it is printed, and its path or content; or why there is none."""

    name: str
    source: Path | bytes | ImageError


def expand(arguments: Sequence[str]) -> Iterator[Input]:
    """The images that the arguments name, in their order; those of a folder sorted by path.

    Folders are listed while one iterates, so that memory holds the names of one folder, and of those above it. As
    in prepare, links are followed and hidden files left out. A folder that cannot be listed is an input that says so.
    Standard input is read at once.

    Raises:
        UserError: a folder holds no images; at once, not while iterating.
    """
    for argument in arguments:
        if Path(argument).is_dir() and not any(_files(Path(argument))):
            raise UserError(f"the folder {argument} holds no images", "give image files, or another folder")
    content = sys.stdin.buffer.read() if STDIN in arguments else b""
    return (found for argument in arguments for found in _expand(argument, content))


def count(arguments: Iterable[str]) -> int:
    """How many `expand` gives, by the same listing."""
    return sum(sum(1 for _ in _files(Path(each))) if Path(each).is_dir() else 1 for each in arguments)


def _expand(argument: str, content: bytes) -> Iterator[Input]:
    if argument == STDIN:
        yield Input(STDIN, content)
    elif Path(argument).is_dir():
        yield from _files(Path(argument))
    else:
        yield _named(Path(argument))


def _files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Input]:
    """The images at or below a folder; `above`, the folders it is in by device and inode, ends loops of links."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            names = sorted(filter(None, map(_name, entries)), key=lambda name: name.rstrip("/"))
    except OSError as error:
        yield Input(printable(str(folder)), ImageError(f"unreadable: {error.strerror}"))
        return
    within = above | {(status.st_dev, status.st_ino)}
    for name in names if len(within) > len(above) else ():
        if name.endswith("/"):
            yield from _files(folder / name, within)
        elif _is_image(folder / name):
            yield _named(folder / name)


def _name(entry: os.DirEntry[str]) -> str:
    """With a slash where it is a folder; empty where it is hidden, or neither file nor folder."""
    if entry.name.startswith("."):
        return ""
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name if entry.is_file() else ""
    except OSError:  # a link that leads to itself: to be reported
        return entry.name


def _named(path: Path) -> Input:
    return Input(printable(str(path)), path)


def _is_image(path: Path) -> bool:
    """By name or by content: a broken x.jpg is to be reported, a photo without a suffix to be found."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN or images.recognised(path)
