"""Decoding in several threads at once, what formats and animations are refused, and what of Pillow is put back."""

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from transferline.data import images

SIDE = 64


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def noise(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def animation(format_: str) -> bytes:
    frames = [Image.fromarray(noise(seed)) for seed in (1, 2)]
    return encoded(frames[0], format_, save_all=True, append_images=frames[1:])


def outcome(data: bytes, max_pixels: int) -> str | bytes:
    try:
        return images.decode(data, max_pixels=max_pixels).tobytes()
    except images.ImageError as error:
        return str(error)


@pytest.mark.parametrize("limits", [(SIDE * SIDE,), (SIDE * SIDE, SIDE * SIDE + 1, 2 * SIDE * SIDE)])
def test_many_threads_decode_as_one_does_and_bombs_are_refused_meanwhile(limits):
    good = [noise(seed) for seed in range(8)]
    bomb = encoded(Image.new("RGB", (4 * SIDE, SIDE)))
    icon = encoded(Image.new("RGB", (4 * SIDE, SIDE)), "ICO", sizes=[(4 * SIDE, SIDE)])  # the bomb is inside
    icon = icon[:6] + bytes([SIDE, SIDE]) + icon[8:]
    jobs, expected = [], []
    for index in range(240):
        limit = limits[index % len(limits)]
        which = index % 10
        if which < 8:
            jobs.append((encoded(Image.fromarray(good[which])), limit))
            expected.append(good[which].tobytes())
        else:
            jobs.append((bomb if which == 8 else icon, limit))
            expected.append(f"{4 * SIDE * SIDE} pixels are over the limit of {limit}")
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: outcome(*job), jobs))
    assert found == expected
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_threads_of_one_limit_decode_at_once_and_the_last_out_puts_the_limit_back(monkeypatch):
    together = threading.Barrier(3, timeout=60)  # which breaks unless three are inside at once
    monkeypatch.setattr(images, "_check_size", lambda *_: together.wait())
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(3) as pool:
        shapes = [each.shape for each in pool.map(lambda _: images.decode(encoded(Image.new("L", (9, 5)))), range(3))]
    assert shapes == [(5, 9, 3)] * 3
    assert before == Image.MAX_IMAGE_PIXELS


def test_another_limit_waits_and_is_not_overtaken(monkeypatch):
    """With a limit held, one for another limit comes, then one for the first: they go in that order."""
    entered, go, order = threading.Event(), threading.Event(), []
    check = images._check_size

    def held(image: Image.Image, min_side: int, max_pixels: int | None) -> None:
        order.append(max_pixels)
        if not entered.is_set():
            entered.set()
            assert go.wait(60)
        check(image, min_side, max_pixels)

    monkeypatch.setattr(images, "_check_size", held)
    data = encoded(Image.new("L", (2, 2)))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(images.decode, data, max_pixels=100)
        assert entered.wait(60)
        other = pool.submit(images.decode, data, max_pixels=50)
        while not images._LIMIT._turn.locked():
            assert not other.done()
        late = pool.submit(images.decode, data, max_pixels=100)
        go.set()
        assert [each.result(60).shape for each in (first, other, late)] == [(2, 2, 3)] * 3
    assert order == [100, 50, 100]


def test_pillows_warnings_are_left_out_and_those_of_others_are_not(monkeypatch):
    still = encoded(Image.new("RGB", (40, 40)))
    body = b"acTL" + bytes(8)  # an animation of no frames, which Pillow warns of
    odd = still[:33] + struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body)) + still[33:]
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(odd)).close()
    assert images.decode(odd).shape == (40, 40, 3)

    def warned(*_: object) -> None:
        warnings.warn("of another", UserWarning, stacklevel=1)

    monkeypatch.setattr(images, "_check_size", warned)
    with pytest.raises(images.ImageError, match="of another"):  # a warning is an error in tests
        images.decode(still)


def test_a_filter_that_was_set_meanwhile_stays(monkeypatch):
    with warnings.catch_warnings():
        monkeypatch.setattr(images, "_check_size", lambda *_: warnings.simplefilter("ignore", BytesWarning))
        images.decode(encoded(Image.new("L", (2, 2))))
        assert ("ignore", None, BytesWarning, None, 0) in warnings.filters
        assert images._QUIET not in warnings.filters


def test_only_formats_that_are_named_are_tried():
    image = Image.fromarray(noise(0))
    assert images.decode(encoded(image), formats=("JPEG", "PNG")).shape == (SIDE, SIDE, 3)
    for format_ in ("BMP", "TIFF", "ICO", "EPS"):
        with pytest.raises(images.ImageError, match=r"^not an image$"):
            images.decode(encoded(image, format_), formats=("JPEG", "PNG"))


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_where_that_is_asked_for(format_):
    data = animation(format_)
    assert images.decode(data).shape == (SIDE, SIDE, 3)
    with pytest.raises(images.ImageError, match="several frames"):
        images.decode(data, animated=False)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF", "JPEG", "BMP"])
def test_one_frame_is_no_animation(format_):
    assert images.decode(encoded(Image.fromarray(noise(0)), format_), animated=False).shape == (SIDE, SIDE, 3)


def test_a_photo_with_a_preview_is_no_animation():
    assert images.decode(animation("MPO"), animated=False).shape == (SIDE, SIDE, 3)
