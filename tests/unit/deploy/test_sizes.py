"""Batches and images of every size are predicted, or refused with a message; memory stays within bounds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from transferline.deploy import export, predictor
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError

from .conftest import Line, make_card, predict

MEASURE = """
import sys
from pathlib import Path
import numpy as np
from transferline.deploy.predictor import Predictor

def memory(key):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])

model = Predictor(Path(sys.argv[1]), threads=1)
for shape in sys.argv[2:]:
    images = np.full([*map(int, shape.split("x")), 3], 99, np.uint8)
    before = memory("VmRSS")
    model.predict(images)
    print(memory("VmHWM") - before, memory("VmRSS") - before)
"""


@pytest.fixture(scope="module")
def model(line: Line) -> Predictor:
    return Predictor(line.model, threads=2)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [(1, 1), (1, 50), (50, 1), (33, 31), (601, 1023)])
def test_images_of_any_size_are_predicted_as_torch_does(line: Line, model: Predictor, side: tuple[int, int]) -> None:
    images = _noise(2, *side)
    np.testing.assert_allclose(model.predict(images), predict(line.deployed, images), atol=1e-5)


def test_no_images_have_no_probabilities(model: Predictor) -> None:
    found = model.predict(np.empty((0, 40, 30, 3), np.uint8))
    assert (found.shape, found.dtype) == ((0, 3), np.float32)


def test_many_images_are_run_in_parts(line: Line, model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _noise(257, 20, 15)
    found = model.predict(images)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((257, 3), np.float32, True)
    np.testing.assert_allclose(found, predict(line.deployed, images), atol=1e-5)
    sizes = []
    monkeypatch.setattr(model, "_run", lambda part: sizes.append(len(part)) or np.zeros((len(part), 3), np.float32))
    model.predict(images)
    monkeypatch.setattr(predictor, "_PART_PIXELS", 1000)
    model.predict(images[:7])
    monkeypatch.setattr(predictor, "_PART_PIXELS", 1)  # one image at least
    model.predict(images[:2])
    assert sizes == [*[8] * 32, 1, 3, 3, 1, 1, 1]


def test_parts_grow_with_the_threads(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for threads in (1, 4, 100):
        model = Predictor(line.model, threads=threads)
        monkeypatch.setattr(model, "_run", lambda part: sizes.append(len(part)) or np.zeros((len(part), 3), np.float32))
        model.predict(np.zeros((64, 2, 2, 3), np.uint8))
    assert sizes == [*[8] * 8, *[16] * 4, 64]


def test_rows_need_not_lie_one_after_another(model: Predictor) -> None:
    images = _noise(4, 60, 80)
    mirrored, columns, strange = images[:, :, ::-1], images[:, 5:45:2, 3:70], np.asfortranarray(images)
    swapped = images[..., ::-1]  # BGR to RGB, say
    for given in (mirrored, columns, strange, swapped, images.transpose(0, 2, 1, 3)):
        assert not given.flags.c_contiguous
        np.testing.assert_array_equal(model.predict(given), model.predict(given.copy(order="C")))
    read_only = images.view()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(model.predict(read_only), model.predict(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), "not float32 \\[1, 4, 4, 3\\]\n  grey levels are whole numbers"),
        (np.zeros((1, 4, 4, 3), np.int8), "not int8"),
        (np.zeros((4, 4, 3), np.uint8), "not uint8 \\[4, 4, 3\\]\n  one image is a batch of one"),
        (np.zeros((2, 3, 9, 9), np.uint8), "\n  colours come last"),
        (np.zeros((2, 9, 9, 4), np.uint8), "not uint8 \\[2, 9, 9, 4\\]\n.*decode gives RGB images"),
        (np.zeros((9, 9), np.uint8), "not uint8 \\[9, 9\\]"),
        (np.zeros((), np.uint8), "not uint8 \\[\\]"),
        (np.zeros((2, 0, 9, 3), np.uint8), "\\[2, 0, 9, 3\\] have no pixels"),
        ([np.zeros((4, 4, 3), np.uint8)], "one array, and not list\n  numpy.stack"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(model: Predictor, images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(images)


def test_memory_is_bounded_and_given_back(tmp_path: Path) -> None:
    """An 8000x6000 image takes 25 bytes a pixel at most (18 seen), its own 3 aside; 257 images, not 4 times 64's."""
    smallest = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # what memory there is, the resize takes
    deployed = export.Deployed(smallest, replace(make_card(), input_size=224), 1.7)
    export.write_onnx(deployed, tmp_path / "model.onnx", 20, {"classes": '["a", "b", "c"]'})
    [[large, kept]] = _measured(tmp_path / "model.onnx", "1x6000x8000")
    assert large < 8000 * 6000 * 25, f"{large / 48e6:.1f} bytes a pixel"
    assert kept < 50e6, f"{kept / 1e6:.0f} MB are kept"
    [[few, _], [many, _]] = _measured(tmp_path / "model.onnx", "64x250x250", "257x250x250")
    assert few < 64 * 250 * 250 * 150, f"{few / 4e6:.0f} bytes a pixel"
    assert many < few, f"{many / 1e6:.0f} MB more for 257 images, after {few / 1e6:.0f} MB for 64"


def _measured(model: Path, *shapes: str) -> list[list[int]]:
    """Bytes that predicting images of each shape, one after the other, takes at its height, and keeps."""
    command = [sys.executable, "-c", MEASURE, str(model), *shapes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
