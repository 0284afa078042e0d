"""Files of every content that a folder of images may hold: for each row of docs/data.md, a function that makes it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.corpus import Expected, case, picture, save


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG written by hand; `rows` are its scan lines, each behind a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def white(height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), 255, dtype=np.uint8)


@case
def common_formats(root: Path) -> Expected:
    lossless = {name: picture(20) for name in ("png", "bmp", "tif", "ppm", "tga", "ico", "jp2")}
    for name in lossless:
        save(root / f"a/x.{name}", picture(20), **({"sizes": [(40, 40)]} if name == "ico" else {}))
    save(root / "a/x.webp", picture(20), lossless=True)
    for name in ("jpg", "gif", "avif"):
        save(root / f"a/x.{name}", picture(21))
    return {f"a/x.{name}": pixels for name, pixels in lossless.items()} | {
        "a/x.webp": picture(20),
        "a/x.jpg": None,
        "a/x.gif": None,
        "a/x.avif": None,
    }


@case
def truncated(root: Path) -> Expected:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    for name in ("jpg", "png", "bmp", "webp", "avif"):
        path = save(root / f"a/x.{name}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return {f"a/x.{name}": None for name in ("jpg", "png", "bmp", "webp", "avif")}


@case
def zero_byte(root: Path) -> Expected:
    (root / "a/x.jpg").touch()
    return {"a/x.jpg": None}


@case
def wrong_extension(root: Path) -> Expected:
    save(root / "a/x.png", picture(20)).rename(root / "a/x.jpg")
    save(root / "a/y.png", picture(21)).rename(root / "a/y")
    return {"a/x.jpg": picture(20), "a/y": picture(21)}


@case
def html_named_jpg(root: Path) -> Expected:
    (root / "a/x.jpg").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    return {"a/x.jpg": None}


@case
def other_files(root: Path) -> Expected:
    contents = {
        "x.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'></svg>",
        "x.heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200),
        "x.pdf": b"%PDF-1.7\n",
        "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n",
        "x.txt": b"notes",
        "x.mp4": b"\x00\x00\x00\x20ftypisom" + bytes(200),
        "x.zip": b"PK\x03\x04" + bytes(200),
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "zeros.jpg": bytes(5000),
    }
    for name, content in contents.items():
        (root / "a" / name).write_bytes(content)
    return {f"a/{name}": None for name in contents}


def animated(root: Path, name: str, **options: object) -> Expected:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(root / name, save_all=True, append_images=frames[1:], **options)
    return {name: np.full((40, 40, 3), (255, 0, 0), dtype=np.uint8)}


@case
def animated_gif(root: Path) -> Expected:
    return animated(root, "a/x.gif")


@case
def animated_webp(root: Path) -> Expected:
    return animated(root, "a/x.webp", lossless=True)


@case
def animated_png(root: Path) -> Expected:
    return animated(root, "a/x.png")


@case
def tiff_pages(root: Path) -> Expected:
    return animated(root, "a/x.tif")


@case
def stereo_mpo(root: Path) -> Expected:
    frames = [Image.fromarray(picture(seed)) for seed in (20, 21)]
    frames[0].save(root / "a/x.mpo", save_all=True, append_images=frames[1:], quality=95)
    content = io.BytesIO()
    frames[0].save(content, "JPEG", quality=95)
    return {"a/x.mpo": np.asarray(Image.open(content))}


@case
def cmyk(root: Path) -> Expected:
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(root / "a/x.tif")
    return {"a/x.tif": np.full((40, 40, 3), (255, 0, 0), dtype=np.uint8)}


@case
def sixteen_bit_grey(root: Path) -> Expected:
    values = np.linspace(0, 65535, 1600).round().astype(np.uint16).reshape(40, 40)
    for name in ("png", "tif"):
        Image.fromarray(values).save(root / f"a/x.{name}")
    grey = np.round(values / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    return {"a/x.png": grey, "a/x.tif": grey}


@case
def sixteen_bit_colour(root: Path) -> Expected:
    line = b"\x00" + struct.pack(">HHH", 0xFF00, 0x8000, 0x00FF) * 40
    (root / "a/x.png").write_bytes(png(40, 40, zlib.compress(line * 40), depth=16, colour=2))
    return {"a/x.png": np.full((40, 40, 3), (255, 128, 0), dtype=np.uint8)}


@case
def palette_with_transparency(root: Path) -> Expected:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.paste(0, (0, 0, 20, 40))
    image.save(root / "a/x.png", transparency=0)
    expected = white()
    expected[:, 20:] = (10, 200, 30)
    return {"a/x.png": expected}


@case
def transparent_modes(root: Path) -> Expected:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 255))
    image.paste((9, 9, 9, 0), (0, 0, 20, 40))
    for mode in ("RGBA", "LA"):
        image.convert(mode).save(root / f"a/{mode}.png")
    expected = white()
    expected[:, 20:] = 0
    return {"a/RGBA.png": expected, "a/LA.png": expected}


@case
def one_bit(root: Path) -> Expected:
    stripes = np.zeros((40, 40), dtype=bool)
    stripes[::5] = True
    for name in ("png", "pbm", "tif"):
        Image.fromarray(stripes).save(root / f"a/x.{name}")
    expected = np.where(stripes[..., None], white(), 0).astype(np.uint8)
    return {f"a/x.{name}": expected for name in ("png", "pbm", "tif")}


@case
def floating_point(root: Path) -> Expected:
    Image.fromarray(np.zeros((40, 40), dtype=np.float32)).save(root / "a/x.tif")
    return {"a/x.tif": None}


@case
def beyond_16_bits(root: Path) -> Expected:
    Image.fromarray(np.full((40, 40), 65536, dtype=np.int32)).save(root / "a/x.tif")
    return {"a/x.tif": None}


@case
def exif_rotated(root: Path) -> Expected:
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    save(root / "a/x.png", picture(20)[:, :36], exif=exif)
    return {"a/x.png": np.rot90(picture(20)[:, :36], -1)}


@case
def broken_metadata(root: Path) -> Expected:
    save(root / "a/icc.png", picture(20), icc_profile=b"\x00\x00\x0b\xd0truncated")
    save(root / "a/exif.png", picture(21), exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01")
    return {"a/icc.png": picture(20), "a/exif.png": picture(21)}


@case
def one_by_one(root: Path) -> Expected:
    save(root / "a/x.png", picture(20)[:1, :1])
    return {"a/x.png": None}


@case
def very_wide(root: Path) -> Expected:
    wide = np.tile(picture(20), (1, 750, 1))
    save(root / "a/x.png", wide)
    return {"a/x.png": wide}


@case
def bomb_of_huge_sides(root: Path) -> Expected:
    (root / "a/x.png").write_bytes(png(50_000, 50_000, zlib.compress(bytes(50_001))))
    return {"a/x.png": None}


@case
def bomb_in_an_icon(root: Path) -> Expected:
    inner = png(20_000, 20_000, zlib.compress(bytes(20_001)))
    entry = struct.pack("<BBBBHHII", 40, 40, 0, 0, 1, 32, len(inner), 22)
    (root / "a/x.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inner)
    return {"a/x.ico": None}


@case
def bomb_in_a_gif(root: Path) -> Expected:
    screen = b"GIF89a" + struct.pack("<HHBBB", 40, 40, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 20_000, 20_000, 0x80) + bytes(6) + b"\x02\x02\x44\x01\x00;"
    (root / "a/x.gif").write_bytes(screen + frame)
    return {"a/x.gif": None}


@case
def bomb_that_inflates(root: Path) -> Expected:
    squeezer = zlib.compressobj(9)
    rows = squeezer.compress(bytes(41 * 40)) + b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(100))
    (root / "a/x.png").write_bytes(png(40, 40, rows + squeezer.flush()))
    return {"a/x.png": np.zeros((40, 40, 3), dtype=np.uint8)}


@case
def bomb_of_text(root: Path) -> Expected:
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(64 << 20)))
    (root / "a/x.png").write_bytes(png(40, 40, zlib.compress(bytes(41 * 40)), extra=text))
    return {"a/x.png": None}
