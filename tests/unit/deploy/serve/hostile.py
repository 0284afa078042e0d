"""Requests that mean harm, or are broken: whole HTTP messages as bytes, the same ones for the same seed."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from tests.faults import contents
from tests.faults.corpus import MAKERS

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO")
TYPES = ("image/jpeg", "image/png", "image/svg+xml", "image/*", "application/octet-stream", "image/x; charset=\xff")
BOUNDARY = "xxBOUNDARYxx"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
NAMES = (
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/dev/zero",
    "a\x00.png",
    "%00%2e%2e%2f",
    "\u202egnp.exe",
    "🜁" * 300,
    "n" * 20_000,
    "a.png\r\nX-Injected: yes",
    "<script>alert(1)</script>",
    "{{7*7}}${7*7}",
    "con",
    "",
)

T = TypeVar("T")
Rng = np.random.Generator


@dataclass(frozen=True)
class Attack:
    """What one connection sends."""

    kind: str
    message: bytes
    ends: bool = False  # the client then closes its side, in the midst of the message
    due: bool = True  # an answer must come; otherwise the connection may also just be closed


def attacks(count: int, seed: int, scratch: Path) -> list[Attack]:
    """Of every kind its share, in no order."""
    rng = np.random.default_rng(seed)
    whole, files = [*_files(scratch)], _of_formats()
    damaged = (_damaged(rng, _pick(rng, files)) for _ in range(count * 2 // 5))
    made = [Attack("damaged image", request(data, _pick(rng, TYPES))) for data in damaged]
    made += [Attack("file", request(data, _pick(rng, TYPES))) for data in whole]
    made += [Attack("file in a form", form(part(data, name=_pick(rng, NAMES)))) for data in whole]
    made += [Attack("bomb", request(_bomb(rng), _pick(rng, TYPES))) for _ in range(count // 10)]
    makers: list[Callable[[Rng], Attack]] = [_wrong_type, _bad_form, _bad_form, _lying, _malformed]
    while len(made) < count:
        made.append(_pick(rng, makers)(rng))
    return [made[index] for index in rng.permutation(len(made))[:count]]


def request(body: bytes, kind: str | None, *headers: str, length: int | None = None, target: str = "/predict") -> bytes:
    """A POST of that content type."""
    lines = [f"POST {target} HTTP/1.1", "Host: here", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body) if length is None else length}"]
    lines += [] if kind is None else [f"Content-Type: {kind}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def part(data: bytes, field: str = "files", name: str | None = "a.png", kind: str = "image/png") -> bytes:
    shown = "" if name is None else f'; filename="{name}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{shown}\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return request(b"".join(parts) + end, FORM)


def good(kind: str = "PNG", side: int = 24) -> bytes:
    """An image file of noise."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _pick(rng: Rng, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def _files(scratch: Path) -> Iterator[bytes]:
    """Every file of the corpus of hostile folders."""
    for name, make in MAKERS.items():
        if make.__module__ != contents.__name__:
            continue
        root = scratch / name
        for side in "ab":
            (root / side).mkdir(parents=True)
        make(root)
        yield from (path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def _of_formats() -> list[bytes]:
    return [good(kind, side) for kind in FORMATS for side in (9, 24)]


def _damaged(rng: Rng, data: bytes) -> bytes:
    """Cut, or with bytes changed, doubled, swapped, filled with one value, or put in."""
    first, last = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    changed = bytearray(data)
    match int(rng.integers(6)):
        case 0:
            return data[:first]
        case 1:
            for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
                changed[place] = int(rng.integers(256))
        case 2:
            changed[first:last] = data[first:last] * 2
        case 3:
            return data[last:] + data[first:last] + data[:first]
        case 4:
            changed[first:last] = bytes([_pick(rng, (0, 255, 127))]) * (last - first)
        case _:
            changed[first:first] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(changed)


def _bomb(rng: Rng) -> bytes:
    """A small file that says, or is, an enormous image."""
    side = int(rng.integers(2_000, 65_000))
    rows = zlib.compress(bytes(side + 1))
    match int(rng.integers(6)):
        case 0:
            return contents.png(side, side, rows)
        case 1:
            return contents.png(2**31 - 1, int(rng.integers(1, 2**31)), rows)
        case 2:
            inner = contents.png(side, side, rows)
            return struct.pack("<HHHBBBBHHII", 0, 1, 1, 40, 40, 0, 0, 1, 32, len(inner), 22) + inner
        case 3:
            frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0x80) + bytes(6) + b"\x02\x02\x44\x01\x00"
            return b"GIF89a" + struct.pack("<HHBBB", 40, 40, 0, 0, 0) + frame * int(rng.integers(1, 500)) + b";"
        case 4:
            return b"BM" + struct.pack("<IIIIiiHHIIIIII", 1 << 30, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        case _:
            return f"P6 {side} {side} 255\n".encode() + bytes(64)


def _wrong_type(rng: Rng) -> Attack:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("../../a.png", bytes(1 << 20))
    bodies = {
        "application/json": json.dumps({"files": ["a" * 100], "n": [[[]]]}).encode(),
        "text/html": b"<!DOCTYPE html><script>alert(1)</script>",
        "application/x-pickle": pickle.dumps({"a": [1, 2, 3]}),
        "application/zip": archive.getvalue(),
        "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/hostname'/></svg>",
        "application/postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/hostname) (r) file\n",
        "application/pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "application/xml": f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><x>&e9;</x>'.encode(),
        "application/x-www-form-urlencoded": b"files=a&files=b&" + b"x=%00&" * 500,
        "text/plain": rng.bytes(200),
        "": b"",
    }
    kind = _pick(rng, [*bodies])
    sent = _pick(rng, [kind, None, *TYPES, FORM])
    return Attack("wrong type", request(bodies[kind], sent))


def _bad_form(rng: Rng) -> Attack:
    image, name = good(), _pick(rng, NAMES)
    whole = part(image) + f"--{BOUNDARY}--\r\n".encode()
    choices: list[Callable[[], bytes]] = [
        lambda: form(part(image, name=name)),
        lambda: form(part(image, name=None)),
        lambda: form(part(image, field=_pick(rng, ("file", "", "files[]", "__proto__", "\x00")))),
        lambda: form(*[part(b"", name="a")] * int(rng.integers(33, 2_000))),
        lambda: form(*[part(b"x", field="text", name=None)] * int(rng.integers(1, 2_000))),
        lambda: form(*(part(_damaged(rng, image), name=name) for _ in range(int(rng.integers(2, 9))))),
        lambda: form(part(image), end=b""),
        form,
        lambda: request(whole, "multipart/form-data"),
        lambda: request(whole, f"multipart/form-data; boundary={'b' * int(rng.integers(1, 500))}"),
        lambda: request(whole, 'multipart/form-data; boundary="\xff"'),
        lambda: request(whole, _pick(rng, ("multipart/mixed; boundary=" + BOUNDARY, FORM + "; charset=utf-99"))),
        lambda: request(_damaged(rng, whole), FORM),
        lambda: request(whole.replace(b"\r\n", b"\n"), FORM),
        lambda: request(f"--{BOUNDARY}\r\n".encode() * int(rng.integers(1, 3_000)), FORM),
        lambda: request(b"--" + BOUNDARY.encode() + b"\r\n" + b"X: y\r\n" * 5_000 + b"\r\n" + image, FORM),
        lambda: request(rng.bytes(2_000), FORM),
    ]
    return Attack("bad form", _pick(rng, choices)())


def _lying(rng: Rng) -> Attack:
    """Headers and queries that do not fit the body."""
    image = good()
    choices: list[Callable[[], Attack]] = [
        lambda: Attack("too short", request(image, "image/png", length=len(image) + 100), ends=True, due=False),
        lambda: Attack("too long", request(image, "image/png", length=int(rng.integers(0, len(image)))), due=False),
        lambda: Attack("said to be huge", request(image, "image/png", length=1 << 40), ends=True, due=False),
        lambda: Attack("huge", request(bytes(400_000), "image/png"), due=False),
        lambda: Attack("encoding", request(zlib.compress(image), "image/png", "Content-Encoding: deflate")),
        lambda: Attack("jpeg that is none", request(image, _pick(rng, TYPES))),
        lambda: Attack("expectation", request(image, "image/png", "Expect: 100-continue")),
        lambda: Attack("query", request(image, "image/png", target=f"/predict?top={_pick(rng, QUERIES)}")),
        lambda: Attack("path", request(image, "image/png", target=_pick(rng, PATHS))),
        lambda: Attack("headers", request(image, "image/png", *(f"X-{n}: {'v' * 50}" for n in range(200)))),
        lambda: Attack("empty", request(b"", _pick(rng, (*TYPES, FORM)))),
    ]
    return _pick(rng, choices)()


QUERIES = ("0", "-1", "1e9", "9" * 5_000, "%00", "1&top=2", "NaN", "", "%F0%9F%9C%81", "9223372036854775808")
PATHS = ("/../../etc/passwd", "/predict/", "/predict%00", "//predict", "/%2e%2e/%2e%2e/", "/" + "a" * 9_000)


def _malformed(rng: Rng) -> Attack:
    """Not HTTP, or hardly; chunks; two lengths."""
    image, post = good(), b"POST /predict HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: image/png\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    size = f"{len(image):x}\r\n".encode()
    chunks = b"".join(b"1\r\n" + image[place : place + 1] + b"\r\n" for place in range(len(image)))
    message = _pick(
        rng,
        [
            rng.bytes(300),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.bytes(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /predict\r\n\r\n",
            b"POST\r\n\r\n",
            b"POST /predict HTTP/9.9\r\n\r\n",
            b"\r\n" * 2_000,
            post + b"Content-Length: -5\r\n\r\n" + image,
            post + b"Content-Length: 5\r\nContent-Length: 500\r\n\r\n" + image,
            post + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n" + size + image + b"\r\n0\r\n\r\n",
            post + b"No colon\r\n\r\n",
            post + b"X: " + b"v" * 200_000 + b"\r\n\r\n",
            post + b"X\x00Y: z\r\n\r\n",
            post + b"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
            b"CONNECT here:443 HTTP/1.1\r\nHost: here\r\n\r\n",
            b"TRACE / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n",
            b"POST http://other/predict HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            chunked + size + image + b"\r\n0\r\n\r\n",
            chunked + chunks + b"0\r\n\r\n",
            chunked + b"FFFFFFFFFFFFFFFF\r\n" + image,
            chunked + b"zz\r\n" + image,
            chunked + size + image[:-5],
            chunked + b"0\r\n" + b"T: v\r\n" * 9_000 + b"\r\n",
        ],
    )
    return Attack("malformed", message, ends=True, due=False)
