"""Images in every form in which MLflow hands them over, and what is said of what holds none."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transferline.data import images
from transferline.pyfunc import requests

RNG = np.random.default_rng(0)
PAIR = RNG.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
TALL = RNG.integers(0, 256, (9, 4, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def text(pixels: np.ndarray) -> str:
    return base64.b64encode(png(pixels)).decode()


def in_lines(value: str) -> str:
    return "\n".join(value[start : start + 76] for start in range(0, len(value), 76))


TEXTS = [text(image) for image in PAIR]
FORMS = {
    "list": TEXTS,
    "array": np.array(TEXTS),
    "series": pd.Series(TEXTS),
    "table": pd.DataFrame({"id": [1, 2], "image": TEXTS}),
    "dict": {"image": TEXTS},
    "dicts": [{"image": one} for one in TEXTS],
    "dicts of arrays": [{"image": np.array(one)} for one in TEXTS],
    "data urls": [f"data:image/png;base64,{one}" for one in TEXTS],
    "lines": [in_lines(one) for one in TEXTS],
    "bytes": [png(image) for image in PAIR],
    "pixels": PAIR,
    "int64": PAIR.astype(np.int64),
    "float": PAIR.astype(np.float64),
    "nested lists": PAIR.tolist(),
    "under images": {"images": PAIR.astype(np.int64)},
    "list of pixels": list(PAIR),
    "table of nested lists": pd.DataFrame({"image": PAIR.tolist()}),
    "not contiguous": np.ascontiguousarray(PAIR.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    "mixed": [TEXTS[0], PAIR[1]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form: str) -> None:
    found = list(requests.read(FORMS[form]))
    assert [image.dtype for image in found] == [np.uint8] * 2
    assert np.array_equal(found, PAIR)


@pytest.mark.parametrize("given", [TEXTS[0], png(PAIR[0]), np.array(TEXTS[0]), {"image": np.array(TEXTS[0])}])
def test_a_single_image_is_one(given: object) -> None:
    assert np.array_equal(list(requests.read(given)), PAIR[:1])


@pytest.mark.parametrize("given", [[], np.array([]), pd.DataFrame({"image": []}), np.zeros((0, 4, 4, 3), np.uint8)])
def test_no_images_are_none(given: object) -> None:
    assert list(requests.read(given)) == []


def test_files_are_decoded_as_everywhere() -> None:
    """A rotated JPEG, a transparent palette, 16-bit grey: `images.decode` has the rules."""
    files = []
    for image, options in [
        (
            Image.fromarray(TALL),
            {"format": "JPEG", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"},
        ),
        (Image.fromarray(np.dstack([PAIR[0], PAIR[0, ..., 0]])), {"format": "PNG"}),
        (Image.fromarray(TALL[..., 0].astype(np.uint16) * 200), {"format": "PNG"}),
        (Image.fromarray(TALL).convert("CMYK"), {"format": "TIFF"}),
    ]:
        content = io.BytesIO()
        image.save(content, **options)
        files.append(content.getvalue())
    found = list(requests.read([base64.b64encode(file).decode() for file in files]))
    assert all(np.array_equal(image, images.decode(file)) for image, file in zip(found, files, strict=True))
    assert found[0].shape == (4, 9, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["!"], "image 0: its base64 cannot be decoded"),
        ([TEXTS[0], ""], "image 1: its base64 is empty"),
        ([TEXTS[0], "aGFsbG8="], "image 1: not an image"),
        ([text(PAIR[0])[:60]], "image 0: "),
        (["data:image/png,abc"], "image 0: its base64 is empty"),
        ([None], "image 0: it is neither base64 text nor an array, but NoneType"),
        (pd.DataFrame({"image": [1.5]}), "image 0: it is neither base64 text nor an array, but float"),
        (3, "image 0: it is neither"),
        (np.float64(3), "image 0: it is neither"),
        ([PAIR[0, 0]], "image 0: an array has the shape [height, width, 3], and this one [7, 3]"),
        ([[[[1, 2]]]], "image 0: an array has the shape [height, width, 3], and this one [1, 1, 2]"),
        ([[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]], "image 0: its rows are not of one length"),
        (PAIR[0], "arrays as [images, height, width, 3]: this has shape [5, 7, 3]"),
        (np.array([[TEXTS[0]]]), "give texts as one list"),
        (np.zeros((1, 0, 4, 3), np.uint8), "image 0: an array has the shape"),
        (PAIR - 300.0, "image 0: its pixels are not whole numbers from 0 to 255"),
        (PAIR / 255, "image 0: its pixels are not whole numbers from 0 to 255"),
        (PAIR * np.nan, "image 0: its pixels are not whole numbers from 0 to 255"),
        (PAIR > 3, "image 0: its pixels are not whole numbers from 0 to 255"),
        ([[[["1", "2", "3"]]]], "image 0: its pixels are not whole numbers from 0 to 255"),
        ([[[[10**30, 2, 3]]]], "image 0: its pixels are not whole numbers from 0 to 255"),
        ({"imag": TEXTS}, "images are looked for under 'image', and there is: imag"),
        ({"image": TEXTS, "x": TEXTS}, "images are looked for under 'image', and there is: image, x"),
        ({}, "and there is: nothing"),
        (pd.DataFrame({"a": [1], 2: [3]}), "and there is: a, 2"),
        ({"image": {"a": 1}}, "images are looked for under 'image', and there is: a"),
    ],
)
def test_what_holds_no_image_is_refused_with_the_reason(given: object, message: str) -> None:
    with pytest.raises(requests.RequestError) as caught:
        list(requests.read(given))
    assert message in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    with pytest.raises(requests.RequestError, match="image 0: 400000000 pixels are over the limit of 50000000"):
        list(requests.read([base64.b64encode(content.getvalue()).decode()]))


def test_batches_keep_the_order_and_hold_one_size_each() -> None:
    found = [*PAIR, TALL, PAIR[0], *[TALL] * 70]
    made = list(requests.batches(found))
    assert [len(batch) for batch in made] == [2, 1, 1, 32, 32, 6]
    assert all(
        np.array_equal(one, other) for one, other in zip((row for batch in made for row in batch), found, strict=True)
    )
    assert list(requests.batches([])) == []
