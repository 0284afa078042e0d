"""Every file of a layout looked at once, in parallel: its hashes and size, or why it cannot be used."""

import hashlib
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imagehash
from PIL import Image
from rich.progress import track

from transferline.artifacts import SplitName
from transferline.data import images
from transferline.data.sources import Layout, SourceFile, printable

_CHUNK = 16  # files a worker takes at once: few enough to keep the bar moving


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


def inspect_all(layout: Layout, min_side: int, max_pixels: int) -> tuple[list[Inspection], list[Rejection]]:
    """Decode every file of `layout`; the order of the results is the order of its files, strays last."""
    look = partial(inspect, layout.root, min_side=min_side, max_pixels=max_pixels)
    found = _in_parallel(look, layout.files)
    usable = [each for each in found if isinstance(each, Inspection)]
    rejected = [each for each in found if isinstance(each, Rejection)]
    strays = [Rejection(printable(path), layout.unlisted) for path in layout.strays]
    return usable, rejected + strays


def inspect(root: Path, file: SourceFile, min_side: int, max_pixels: int) -> Inspection | Rejection:
    """Decode one file fully and hash it.

    The perceptual hash is that of imagehash: the signs, about their median, of the 64 lowest
    frequencies of a discrete cosine transform of the grey image at 32 x 32.
    """
    if printable(file.path) != file.path:
        return Rejection(printable(file.path), "the name is not UTF-8")
    try:
        data = images.read(root / file.path)
        pixels = images.decode(data, min_side=min_side, max_pixels=max_pixels)
    except images.ImageError as reason:
        return Rejection(file.path, str(reason))
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


def _in_parallel(look: partial[Inspection | Rejection], files: Sequence[SourceFile]) -> list[Inspection | Rejection]:
    workers = min(os.cpu_count() or 1, -(-len(files) // _CHUNK))
    if workers <= 1:
        return [look(file) for file in files]
    pool = ProcessPoolExecutor(workers, initializer=_end_quietly)
    try:
        results = pool.map(look, files, chunksize=_CHUNK)
        return list(track(results, description="decoding", total=len(files)))
    finally:
        pool.shutdown(cancel_futures=True)


def _end_quietly() -> None:
    """Workers leave Ctrl-C to the stage, which then ends them, and die of SIGTERM without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
