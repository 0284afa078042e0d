"""Images out of what MLflow makes of a request, or of what a caller gives `mlflow.pyfunc`."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from transferline.data import images
from transferline.data.images import Pixels

COLUMNS = "image", "images"  # of a table, or keys of an object: either will do

_MAX_PIXELS = 50_000_000  # of an image, as `transferline serve` has it by default
_BATCH = 32


class RequestError(ValueError):
    """It is not what this model takes; the message says which image, and why. It holds no path."""


def read(given: Any) -> Iterator[Pixels]:
    """Images uint8 [H, W, 3], each decoded when it is asked for.

    Args:
        given: a list, an array of texts, a table or an object with COLUMNS, of images: each the base64 text (a
            `data:` URL, too) or the bytes of an image file, or an array [H, W, 3] of whole numbers 0 to 255; or an
            array [B, H, W, 3]; or a single text or bytes.

    Raises:
        RequestError: where it is something else.
    """
    for number, item in enumerate(_items(given)):
        try:
            yield _pixels(item)
        except ValueError as error:
            raise RequestError(f"image {number}: {error}") from None


def batches(found: Iterable[Pixels]) -> Iterator[Pixels]:
    """Images one after another of one size, as uint8 [B, H, W, 3], in their order; few, which bounds the memory."""
    waiting: list[Pixels] = []
    for image in found:
        if waiting and (waiting[0].shape != image.shape or len(waiting) == _BATCH):
            yield np.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield np.stack(waiting)


def _items(given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes):
        return [given]
    if isinstance(given, list | tuple):
        return [_column(item) if isinstance(item, dict) else item for item in given]
    if isinstance(given, dict) or hasattr(given, "columns"):  # a pandas DataFrame
        return _items(_column(given))
    if isinstance(given, np.ndarray):
        return _of_array(given)
    return _of_array(np.asarray(given, dtype=object))  # a pandas Series


def _of_array(given: npt.NDArray[Any]) -> Iterable[Any]:
    if given.ndim == 0:
        return [given.item()]
    if given.ndim == 1 and (given.dtype.kind in "USO" or not given.size):
        return list(given.tolist())
    if given.ndim != 4:
        shape = list(given.shape)
        raise RequestError(f"give texts as one list, and arrays as [images, height, width, 3]: this has shape {shape}")
    return given


def _column(table: Any) -> Any:
    """Of a DataFrame, or of a dict, which may have nothing else: of objects that differ MLflow makes one such dict."""
    names = [str(name) for name in table]
    found = [name for name in COLUMNS if name in names]
    if not found or (isinstance(table, dict) and len(names) > 1):
        raise RequestError(f"images are looked for under '{COLUMNS[0]}', and there is: {', '.join(names) or 'nothing'}")
    return table[found[0]]


def _pixels(item: Any) -> Pixels:
    """Raises ValueError with the reason."""
    if isinstance(item, np.ndarray) and item.ndim == 0:
        item = item.item()
    if isinstance(item, str):
        item = _file(item)
    if isinstance(item, bytes):
        return images.decode(item, max_pixels=_MAX_PIXELS)
    if isinstance(item, list | np.ndarray):
        return _whole(_array(item))
    raise ValueError(f"it is neither base64 text nor an array, but {type(item).__name__}")


def _file(text: str) -> bytes:
    data = text.partition(";base64,")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode("".join(data.split()), validate=True)  # tools break it into lines
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"its base64 cannot be decoded: {error}") from None
    if not content:
        raise ValueError("its base64 is empty")
    return content


def _array(item: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(item)
    except ValueError:
        raise ValueError("its rows are not of one length") from None
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise ValueError(f"an array has the shape [height, width, 3], and this one {list(array.shape)}")
    return array


def _whole(array: npt.NDArray[Any]) -> Pixels:
    """uint8 of numbers of any type that are what uint8 can hold."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iuf" and array.min() >= 0 and array.max() <= 255:
        pixels = array.astype(np.uint8)
        if np.array_equal(pixels, array):
            return pixels
    raise ValueError("its pixels are not whole numbers from 0 to 255")
