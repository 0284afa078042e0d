"""An image file -> uint8 RGB pixels, the one way: prepare, augment, export and the predictor all decode here.

Needs Pillow and numpy only, so that a deployed model pays for nothing else.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 200_000_000  # of a file to predict, which may come from anywhere

_LARGEST_16_BIT = 65535
_STEPS_PER_GREY_LEVEL = 257  # 65535 / 255: full scale stays full scale
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # of the form of warnings.filters
_STILL = {"MPO", "PSD"}  # what Pillow calls frames are a photo's previews there, and layers


class ImageError(ValueError):
    """A file that cannot be used as an image; the message is the reason, fit for a list of such files."""


class TooManyPixelsError(ImageError):
    """An image over the limit of pixels; it was not decoded."""


def read(path: Path) -> bytes:
    """The bytes of a regular file that is not empty. Raises ImageError otherwise."""
    try:
        if path.exists() and not path.is_file():
            raise ImageError("unreadable: not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"unreadable: {error.strerror}") from None
    if not data:
        raise ImageError("empty file")
    return data


def decode(
    source: Path | bytes,
    *,
    min_side: int = 1,
    max_pixels: int | None = None,
    formats: Sequence[str] | None = None,
    animated: bool = True,
) -> Pixels:
    """Decode a file, or a file's content, fully. Any number of threads may do so at once.

    EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled to 8 bits;
    CMYK, palette, grey and bilevel images become RGB; of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of an image file of any format that Pillow reads.
        min_side: smallest side in pixels that is accepted.
        max_pixels: largest width * height that is accepted, checked before the pixels are decoded;
            None for files that are known. Give it for files from outside: it is the only guard
            against decompression bombs, since it takes the place of Pillow's own fixed limit.
            Threads with different limits wait for each other.
        formats: Pillow's names of the formats that are tried, as "JPEG"; None for all.
        animated: whether an image of several frames or pages is accepted.

    Returns:
        uint8 [height, width, 3], RGB, owned by the caller.

    Raises:
        ImageError: with the reason, in which no path is named; TooManyPixelsError over that limit.
    """
    data = read(source) if isinstance(source, Path) else source
    tried = None if formats is None else list(formats)
    try:
        with _LIMIT.held_at(max_pixels), Image.open(io.BytesIO(data), formats=tried) as image:
            _check_size(image, min_side, max_pixels)
            if not animated and image.format not in _STILL and getattr(image, "is_animated", False):
                raise ImageError("it has several frames; give one image")
            return _to_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))  # the one place where Pillow tells the size
        raise TooManyPixelsError(f"{found[0] if found else 'its'} pixels are over the limit of {max_pixels}") from None
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except MemoryError:
        raise ImageError("does not decode: it needs more memory than there is") from None
    except Exception as error:  # a decoder raises whatever a broken file leads it into
        raise ImageError(f"does not decode: {str(error) or type(error).__name__}") from error


def recognised(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> bool:
    """Whether a file begins as an image of a known format does, be it broken or too large."""
    try:
        with _LIMIT.held_at(max_pixels), Image.open(path):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # as in decode; what cannot be read is to be reported where it is decoded
        return True


class _Limit:
    """Pillow's own pixel limit, which is one for the process, is ours while images are decoded, and binds.

    It holds inside of containers, too: the header of an icon tells nothing of the PNG in it. The first thread in
    sets it and the last one out puts it back; a thread with another limit waits until those inside have left.
    Pillow's warnings about odd files are left out meanwhile, and no one else's.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()  # those who come later do not overtake one who waits
        self._left = threading.Condition()
        self._inside = 0
        self._max_pixels: int | None = None
        self._before: int | None = None

    @contextmanager
    def held_at(self, max_pixels: int | None) -> Iterator[None]:
        with self._turn, self._left:
            self._left.wait_for(lambda: not self._inside or self._max_pixels == max_pixels)
            if not self._inside:
                self._set(max_pixels)
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                if not self._inside:
                    self._put_back()
                    self._left.notify()

    def _set(self, max_pixels: int | None) -> None:
        Image.preinit()  # Pillow loads its formats when it meets an unknown file, and is then not safe for threads
        Image.init()
        self._max_pixels, self._before = max_pixels, Image.MAX_IMAGE_PIXELS
        # Pillow refuses what is over twice its limit, and only warns of what is over it once.
        half: Any = None if max_pixels is None else max_pixels / 2
        Image.MAX_IMAGE_PIXELS = half
        _filters().insert(0, _QUIET)

    def _put_back(self) -> None:
        Image.MAX_IMAGE_PIXELS = self._before
        # Not by catch_warnings, which would also put back what other threads changed meanwhile.
        with suppress(ValueError):
            _filters().remove(_QUIET)


def _filters() -> list[Any]:
    assert isinstance(warnings.filters, list)
    return warnings.filters


_LIMIT = _Limit()


def _check_size(image: Image.Image, min_side: int, max_pixels: int | None) -> None:
    if image.format == "EPS":  # Pillow would hand a PostScript program to Ghostscript
        raise ImageError("not an image")
    if min(image.size) < min_side:
        raise ImageError(f"shorter side {min(image.size)} is under {min_side} pixels")
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        raise TooManyPixelsError(f"{pixels} pixels are over the limit of {max_pixels}")


def _to_rgb(image: Image.Image) -> Pixels:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no known range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # a copy less: 4 bytes a pixel


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > _LARGEST_16_BIT:
        raise ImageError("integer pixels beyond 16 bits have no known range")
    half = _STEPS_PER_GREY_LEVEL // 2
    return Image.fromarray(((values + half) // _STEPS_PER_GREY_LEVEL).astype(np.uint8))
