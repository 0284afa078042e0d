"""What `transferline predict` is given: files, folders, or an image on standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from transferline.errors import UserError

STDIN = "-"


class Input(NamedTuple):
    """An image to classify: its name as it is printed, and its path or content."""

    name: str
    source: Path | bytes


def expand(arguments: Sequence[str]) -> list[Input]:
    """The images that the arguments name, in their order; those of a folder sorted by path.

    Raises:
        UserError: a folder holds no images.
    """
    return [found for argument in arguments for found in _expand(argument)]


def _expand(argument: str) -> Iterator[Input]:
    if argument == STDIN:
        yield Input(STDIN, sys.stdin.buffer.read())
    elif not Path(argument).is_dir():
        yield _named(Path(argument))
    else:
        images = [path for path in sorted(Path(argument).rglob("*")) if path.is_file() and _is_image(path)]
        if not images:
            raise UserError(f"the folder {argument} holds no images", "give image files, or another folder")
        yield from map(_named, images)


def _named(path: Path) -> Input:
    return Input(os.fsencode(path).decode("utf-8", "backslashreplace"), path)


def _is_image(path: Path) -> bool:
    """By name or by content: a broken x.jpg is to be reported, a photo without a suffix to be found."""
    if Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN:
        return True
    try:
        with Image.open(path):
            return True
    except UnidentifiedImageError:
        return False
    except (OSError, Image.DecompressionBombError):
        return True
