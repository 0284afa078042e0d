"""An image file -> uint8 RGB pixels, the one way: prepare, augment, export and the predictor all decode here.

Needs Pillow and numpy only, so that a deployed model pays for nothing else.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

_LARGEST_16_BIT = 65535
_STEPS_PER_GREY_LEVEL = 257  # 65535 / 255: full scale stays full scale


class ImageError(ValueError):
    """A file that cannot be used as an image; the message is the reason, fit for a list of such files."""


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


def decode(source: Path | bytes, *, min_side: int = 1, max_pixels: int | None = None) -> Pixels:
    """Decode a file, or a file's content, fully.

    EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled to 8 bits;
    CMYK, palette, grey and bilevel images become RGB; of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of an image file of any format that Pillow reads.
        min_side: smallest side in pixels that is accepted.
        max_pixels: largest width * height that is accepted, checked before the pixels are decoded;
            None for files that are known. Give it for files from outside: it is the only guard
            against decompression bombs, since it takes the place of Pillow's own fixed limit.

    Returns:
        uint8 [height, width, 3], RGB, owned by the caller.

    Raises:
        ImageError: with the reason.
    """
    data = read(source) if isinstance(source, Path) else source
    try:
        with _pillow_limited(max_pixels), Image.open(io.BytesIO(data)) as image:
            _check_size(image, min_side, max_pixels)
            return _to_rgb(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))  # the one place where Pillow tells the size
        raise ImageError(f"{found[0] if found else 'its'} pixels are over the limit of {max_pixels}") from None
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except MemoryError:
        raise ImageError("does not decode: it needs more memory than there is") from None
    except Exception as error:  # a decoder raises whatever a broken file leads it into
        raise ImageError(f"does not decode: {str(error) or type(error).__name__}") from error


@contextmanager
def _pillow_limited(max_pixels: int | None) -> Iterator[None]:
    """Pillow's own pixel limit is ours, and binds; its warnings about odd files are left out.

    It holds inside of containers, too: the header of an icon tells nothing of the PNG in it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, min_side: int, max_pixels: int | None) -> None:
    if image.format == "EPS":  # Pillow would hand a PostScript program to Ghostscript
        raise ImageError("not an image")
    if min(image.size) < min_side:
        raise ImageError(f"shorter side {min(image.size)} is under {min_side} pixels")
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        raise ImageError(f"{pixels} pixels are over the limit of {max_pixels}")


def _to_rgb(image: Image.Image) -> Pixels:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no known range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > _LARGEST_16_BIT:
        raise ImageError("integer pixels beyond 16 bits have no known range")
    half = _STEPS_PER_GREY_LEVEL // 2
    return Image.fromarray(((values + half) // _STEPS_PER_GREY_LEVEL).astype(np.uint8))
