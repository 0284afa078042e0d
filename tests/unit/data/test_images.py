import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline.data import images


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)


def test_rgb_is_returned_as_it_is_and_can_be_written_to(tmp_path):
    pixels = images.decode(save(tmp_path / "a.png", Image.fromarray(gradient())))
    np.testing.assert_array_equal(pixels, gradient())
    assert pixels.flags.writeable


def test_the_extension_does_not_matter(tmp_path):
    save(tmp_path / "a.png", Image.fromarray(gradient()))
    (tmp_path / "a.png").rename(tmp_path / "a.txt")
    assert images.decode(tmp_path / "a.txt").shape == (40, 60, 3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show the image turned by 90 degrees clockwise
    path = save(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
    np.testing.assert_array_equal(images.decode(path), np.rot90(gradient(), -1))


def test_cmyk_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (40, 40), (0, 255, 255, 0)), quality=95)
    np.testing.assert_allclose(images.decode(path)[20, 20], (255, 0, 0), atol=3)


def test_a_palette_keeps_its_colours(tmp_path):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert images.decode(save(tmp_path / "a.png", image))[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    path = save(tmp_path / "a.png", image.quantize(4) if mode == "P" else image.convert(mode))
    pixels = images.decode(path)
    assert pixels[5, 5].tolist() == [0, 0, 0]
    assert pixels[5, 35].tolist() == [255, 255, 255]


def test_half_transparent_black_over_white_is_grey(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGBA", (40, 40), (0, 0, 0, 128)))
    assert images.decode(path)[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_uses_its_whole_range(tmp_path, suffix):
    values = np.linspace(0, 65535, 40 * 40).round().astype(np.uint16).reshape(40, 40)
    pixels = images.decode(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257).astype(np.uint8))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_32_bit_integers_within_16_bits_are_scaled_and_beyond_them_refused(tmp_path):
    inside = save(tmp_path / "in.tif", Image.fromarray(np.full((40, 40), 65535, dtype=np.int32)))
    outside = save(tmp_path / "out.tif", Image.fromarray(np.full((40, 40), 65536, dtype=np.int32)))
    assert images.decode(inside)[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(images.ImageError, match="beyond 16 bits"):
        images.decode(outside)


def test_floating_point_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.zeros((40, 40), dtype=np.float32)))
    with pytest.raises(images.ImageError, match="no known range"):
        images.decode(path)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert images.decode(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"just text", b"%PDF-1.4\n", b"\x00" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_files_are_not_images(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(images.ImageError):
        images.decode(tmp_path / "a.jpg")


def test_an_eps_is_never_handed_to_ghostscript(tmp_path):
    path = save(tmp_path / "a.eps", Image.fromarray(gradient()))
    with pytest.raises(images.ImageError, match=r"^not an image$"):
        images.decode(path)


def test_an_empty_a_missing_and_an_irregular_file_are_named_so(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(images.ImageError, match=r"^empty file$"):
        images.decode(tmp_path / "empty.jpg")
    with pytest.raises(images.ImageError, match="unreadable: No such file"):
        images.decode(tmp_path / "missing.jpg")
    with pytest.raises(images.ImageError, match="not a regular file"):
        images.decode(tmp_path)


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_truncated_file_does_not_decode(tmp_path, format_):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    path = save(tmp_path / "a", Image.fromarray(noise), format=format_)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(images.ImageError, match="does not decode"):
        images.decode(path)


def test_limits_are_inclusive(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(gradient(40, 60)))
    assert images.decode(path, min_side=40, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(images.ImageError, match="shorter side 40 is under 41"):
        images.decode(path, min_side=41)
    with pytest.raises(images.ImageError, match="2400 pixels are over the limit of 2399"):
        images.decode(path, max_pixels=2399)


def test_a_bomb_is_refused_from_its_header_and_pillows_limit_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n20000 20000\n255\n")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(images.ImageError, match="400000000 pixels"):
        images.decode(path, max_pixels=100_000_000)
    assert before == Image.MAX_IMAGE_PIXELS is not None


def test_nothing_heavy_is_imported():
    heavy = ("torch", "pandas", "scipy", "pyarrow", "matplotlib", "pydantic")
    code = f"import sys, transferline.data.images; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
