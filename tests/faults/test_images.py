"""5,000 mutated images: pixels or an ImageError, nothing else; in bounded time and memory."""

import faulthandler
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.faults.corpus import picture
from transferline.data import images, inspection, sources
from transferline.data.inspection import Inspection, Rejection
from transferline.data.workers import Work

FORMATS: dict[str, dict[str, object]] = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "GIF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
    "AVIF": {"speed": 10},
    "JPEG2000": {},
    "ICO": {"sizes": [(40, 40)]},
}
COUNT, MAX_PIXELS = 5000, 1_000_000
HEADROOM = 1 << 30  # bytes of address space beyond what the process has when it starts


def seeds() -> dict[str, bytes]:
    """A file of each format; some of them animated, with metadata or deep."""
    found = {}
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    for name, options in FORMATS.items():
        more: dict[str, object] = {"save_all": True, "append_images": frames[1:]} if name in ("GIF", "TIFF") else {}
        if name in ("PNG", "JPEG", "WEBP", "TIFF"):
            more["exif"] = exif
        stream = io.BytesIO()
        frames[0].save(stream, name, **options, **more)
        found[name] = stream.getvalue()
    return found


def edited(data: bytearray, place: int, edit: bytes | int | None) -> None:
    """At a place (near the start, where headers are, as often as anywhere): bytes over others, a bit, or the end."""
    place %= len(data) if place % 2 else min(64, len(data))
    if edit is None:
        del data[max(place, 1) :]
    elif isinstance(edit, int):
        data[place] ^= 1 << edit
    else:
        data[place : place + len(edit)] = edit


EDITS = st.one_of(
    st.none(), st.integers(0, 7), st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff\xff\xff\x7f", bytes(4)])
)


def mutants(files: dict[str, bytes]) -> list[bytes]:
    """As many as hypothesis is asked for: one to four edits of a file, or of two of them spliced."""
    found: list[bytes] = []

    @settings(max_examples=COUNT, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(
        st.sampled_from(sorted(files)),
        st.sampled_from(sorted(files)),
        st.one_of(st.just(0), st.integers(1, 200)),
        st.lists(st.tuples(st.integers(0, 1 << 16), EDITS), min_size=1, max_size=4),
    )
    def collect(name: str, other: str, spliced: int, edits: list[tuple[int, bytes | int | None]]) -> None:
        data = bytearray(files[name])
        data[len(data) // 2 : len(data) // 2] = files[other][:spliced]
        for place, edit in edits:
            edited(data, place, edit)
        found.append(bytes(data))

    collect()
    return found


def outcome(data: bytes) -> str:
    """What decoding came to, and what it must not be."""
    try:
        pixels = images.decode(data, max_pixels=MAX_PIXELS)
    except images.ImageError as error:
        return "refused" if str(error) and "0x" not in str(error) else f"no reason to be told: {error}"
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= 3 * MAX_PIXELS:
        return f"no pixels: {pixels.shape}"
    return "used"


def died(data: bytes, reason: str) -> str:
    return f"{reason}: {data[:64]!r}"


def fuzz() -> None:
    """Prints the outcomes of all mutants as JSON; runs alone, since its memory is bounded."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
    print(json.dumps(list(Work(outcome, died, 60).each(mutants(seeds())))))


def test_five_thousand_mutants_are_pixels_or_refused():
    code = "from tests.faults.test_images import fuzz; fuzz()"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1200)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert len(found) >= COUNT
    assert set(found) == {"used", "refused"}
    assert min(found.count(what) for what in ("used", "refused")) > 500, "the mutations are too weak or too strong"


def test_the_seeds_themselves_decode():
    for name, data in seeds().items():
        assert images.decode(data, max_pixels=MAX_PIXELS).shape == (40, 40, 3), name


@pytest.mark.parametrize("count", [1, 50])
def test_a_file_that_kills_its_worker_is_quarantined_and_no_other(tmp_path, monkeypatch, count):
    decode = images.decode

    def deadly(data: bytes, **limits: int) -> np.ndarray:
        if data.startswith(b"signal"):
            faulthandler.disable()  # pytest's would tell of it at length
            os.kill(os.getpid(), int(data.split()[1]))
        return decode(data, **limits)

    monkeypatch.setattr(images, "decode", deadly)
    for index in range(count):
        for label in "ab":
            path = tmp_path / label / f"{index:02}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture(index)).save(path)
    for name, signum in (("a/05x", 11), ("b/20x", 9), ("b/21x", 6)):
        (tmp_path / name).write_bytes(f"signal {signum}".encode())
    usable, rejected = inspection.inspect_all(sources.scan(tmp_path), 32, MAX_PIXELS)
    assert all(isinstance(each, Inspection) for each in usable)
    assert [each.path for each in usable] == [f"{label}/{index:02}.png" for label in "ab" for index in range(count)]
    assert rejected == [
        Rejection("a/05x", "crashes the decoder (SIGSEGV)"),
        Rejection("b/20x", "crashes the decoder (killed, as where memory runs out)"),
        Rejection("b/21x", "crashes the decoder (SIGABRT)"),
    ]
