"""Every file of a layout looked at once, in parallel: its hashes and size, or why it cannot be used."""

import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imagehash
from PIL import Image
from rich.progress import track

from transferline.artifacts import SplitName
from transferline.data import images
from transferline.data.hashable import printable
from transferline.data.sources import Layout, SourceFile
from transferline.data.workers import Work

_SECONDS = 120.0  # that a file may take; the largest that is accepted takes about 5 on a slow core


class Inspection(NamedTuple):
    """A file that holds a usable image."""

    path: str
    label: str
    split: SplitName | None
    sha256: str  # of the file
    pixels: str  # sha256 of the decoded pixels and their shape
    phash: str  # 16 hex digits
    width: int
    height: int


class Rejection(NamedTuple):
    """A file that is left out, under its printable path."""

    path: str
    reason: str


def inspect_all(
    layout: Layout, min_side: int, max_pixels: int, seconds: float = _SECONDS
) -> tuple[list[Inspection], list[Rejection]]:
    """Decode every file of `layout`; the order of the results is the order of its files, strays last.

    A file that crashes the decoder, or takes it more than `seconds`, is rejected like any other.
    """
    look = partial(inspect, layout.root, min_side=min_side, max_pixels=max_pixels)
    work = Work(look, _dead, seconds).each(layout.files)
    found = list(track(work, description="decoding", total=len(layout.files)))
    usable = [each for each in found if isinstance(each, Inspection)]
    rejected = [each for each in found if isinstance(each, Rejection)]
    strays = [Rejection(printable(path), layout.unlisted) for path in layout.strays]
    return usable, rejected + strays


def inspect(root: Path, file: SourceFile, min_side: int, max_pixels: int) -> Inspection | Rejection:
    """Decode one file fully and hash it."""
    if printable(file.path) != file.path:
        return Rejection(printable(file.path), "the name is not UTF-8")
    try:
        data = images.read(root / file.path)
        pixels = images.decode(data, min_side=min_side, max_pixels=max_pixels)
        return _described(file, data, pixels)
    except images.ImageError as reason:
        return Rejection(file.path, str(reason))
    except MemoryError:
        return Rejection(file.path, "needs more memory than there is")


def _described(file: SourceFile, data: bytes, pixels: images.Pixels) -> Inspection:
    """The perceptual hash is that of imagehash: the signs, about their median, of the 64 lowest frequencies of a
    discrete cosine transform of the grey image at 32 x 32.
    """
    height, width, _ = pixels.shape
    return Inspection(
        path=file.path,
        label=file.label,
        split=file.split,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=hashlib.sha256(f"{width}x{height}".encode() + pixels.tobytes()).hexdigest(),
        phash=str(imagehash.phash(Image.fromarray(pixels))),
        width=width,
        height=height,
    )


def _dead(file: SourceFile, reason: str) -> Inspection | Rejection:
    return Rejection(printable(file.path), reason)
