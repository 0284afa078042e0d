"""What is refused, with which status, and that the answer names nothing of the server."""

import io
import json
import struct
import zlib
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.unit.deploy.serve.conftest import encoded, form, in_loop, serving
from transferline.deploy.predictor import Predictor

PNG = {"content-type": "image/png"}


def png_of_zeros(width: int, height: int, bits: int = 1) -> bytes:
    """A bomb: a few kilobytes that say they are so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def icon_of(png: bytes) -> bytes:
    """An ICO of 16 x 16 pixels, as its header says, in which a PNG of another size lies."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)) for number in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


async def ask(predictor: Predictor, data: bytes, **settings: int) -> httpx.Response:
    async with serving(predictor, **settings) as (_, client):
        return refused(await client.post("/predict", content=data, headers=PNG))


def refused(answer: httpx.Response) -> httpx.Response:
    """Any refusal: JSON with a sentence, and nothing of what Python or the machine is like."""
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) <= {"detail", "images"}
    assert answer.json()["detail"]
    assert "server" not in answer.headers
    for leak in ("Traceback", "Error", "/", "0x", "PIL", "onnx", "object at"):
        assert leak not in answer.text.replace("multipart/form-data, image/* or application/octet-stream", "")
    return answer


@pytest.mark.parametrize(
    "bomb",
    [png_of_zeros(60_000, 60_000), png_of_zeros(2**31 - 1, 2**31 - 1), png_of_zeros(8000, 8000)],
    ids=["wide", "absurd", "just over"],
)
@in_loop
async def test_a_bomb_is_refused_by_its_header(predictor, bomb) -> None:
    answer = await ask(predictor, bomb)
    assert answer.status_code == 413
    assert "pixels are over the limit of 50000000" in answer.text


@in_loop
async def test_a_bomb_in_an_icon_is_refused(predictor) -> None:
    assert (await ask(predictor, icon_of(png_of_zeros(60_000, 60_000)))).status_code == 422


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"%PDF-1.7", "not an image"),
        (encoded()[:-3000], "damaged or truncated"),
        (encoded(kind="JPEG")[:700], "damaged or truncated"),
        (encoded()[:12], "not an image"),
        (animation("GIF"), "several frames"),
        (animation("PNG"), "several frames"),
        (animation("WEBP"), "several frames"),
        (animation("TIFF"), "several frames"),
        (encoded(7, 40), "shorter side 7 is under 8 pixels"),
        (encoded(1, 1), "shorter side 1 is under 8 pixels"),
    ],
)
@in_loop
async def test_what_is_no_single_whole_image_is_unprocessable(predictor, data, said) -> None:
    answer = await ask(predictor, data)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


@in_loop
async def test_too_many_bytes_are_not_read(predictor) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield bytes(1000)

    async with serving(predictor, max_bytes=100_000) as (app, client):
        stated = refused(await client.post("/predict", content=bytes(100_001), headers=PNG))
        chunked = refused(await client.post("/predict", content=endless(), headers=PNG))
        kind = {"content-type": "multipart/form-data; boundary=x"}
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'

        async def endless_form() -> AsyncIterator[bytes]:
            yield head
            async for chunk in endless():
                yield chunk

        formed = refused(await client.post("/predict", content=endless_form(), headers=kind))
        assert app.state.service._held.count == 0
    assert [stated.status_code, chunked.status_code, formed.status_code] == [413] * 3
    assert read <= 2 * 102_000
    assert "100000 bytes" in chunked.text


@in_loop
async def test_too_many_images_are_too_many(predictor) -> None:
    async with serving(predictor, max_images=2) as (app, client):
        answers = [
            await client.post("/predict", files=form(*[("a.png", encoded())] * count), headers={}) for count in (2, 3)
        ]
        assert app.state.service._taken == 0
    assert [answer.status_code for answer in answers] == [200, 413]
    assert "more than 2 images" in refused(answers[1]).text


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "image", "multipart/mixed; boundary=x"])
@in_loop
async def test_other_types_are_not_taken(predictor, kind) -> None:
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", content=encoded(), headers={"content-type": kind})
    assert refused(answer).status_code == 415


@in_loop
async def test_a_request_without_a_type_is_not_taken(predictor) -> None:
    async with serving(predictor) as (_, client):
        assert refused(await client.post("/predict", content=encoded())).status_code == 415


@in_loop
async def test_bad_images_of_several_are_named(predictor) -> None:
    files = form(("a.png", encoded()), ("b.png", b"x"), ("c.png", encoded(7, 7)), ("d.png", png_of_zeros(9000, 9000)))
    async with serving(predictor) as (app, client):
        some = refused(await client.post("/predict", files=files))
        large = refused(await client.post("/predict", files=[files[0], files[3]]))
        assert app.state.service._taken == 0
    assert some.status_code == 422
    assert some.json()["detail"] == "3 of 4 images cannot be used"
    assert [(each["index"], each["name"]) for each in some.json()["images"]] == [
        (1, "b.png"),
        (2, "c.png"),
        (3, "d.png"),
    ]
    assert [each["reason"].split()[0] for each in some.json()["images"]] == ["not", "shorter", "81000000"]
    assert large.status_code == 413


def part(disposition: str, data: bytes = b"x") -> bytes:
    return b"--x\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", part('form-data; name="files"') + b"--x--"),
        ("multipart/form-data; boundary=x", part('form-data; name="image"; filename="a"', encoded()) + b"--x--"),
        ("multipart/form-data; boundary=x", part('form-data; filename="a"', encoded()) + b"--x--"),
        ("multipart/form-data; boundary=x", part('form-data; name="files"; filename="a"', b"") + b"--x--"),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x; charset=punycode", part('form-data; name="\xff"; filename="a"') + b"--x--"),
        ("multipart/form-data; boundary=x; charset=zlib", part('form-data; name="files"; filename="a"') + b"--x--"),
        (
            "multipart/form-data; boundary=x; charset=unicode_escape",
            part(r'form-data; name="files"; filename="\\ud800"') + b"--x--",
        ),
        ("multipart/form-data", part('form-data; name="files"; filename="a"') + b"--x--"),
        ("multipart/form-data; boundary=" + "x" * 2000, b"--x--"),
    ],
)
@in_loop
async def test_a_form_that_is_none_is_unprocessable(predictor, kind, body) -> None:
    async with serving(predictor) as (app, client):
        answer = await client.post("/predict", content=body, headers={"content-type": kind})
        assert app.state.service._held.count == app.state.service._taken == 0
    assert answer.status_code == 422
    assert set(json.loads(answer.content)) <= {"detail", "images"}


@in_loop
async def test_what_does_not_exist_is_refused_in_json(predictor) -> None:
    async with serving(predictor) as (_, client):
        assert refused(await client.get("/nowhere")).status_code == 404
        assert refused(await client.get("/predict")).status_code == 405
