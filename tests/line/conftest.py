"""A copy of the project on small images made here, in which the whole line has run once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.project import Project, begin

CLASSES = ("blue", "green", "red")
SMALL: dict[str, dict[str, Any]] = {
    "model": {"backbone": "mobilenet_v3_small", "weights": "none", "input_size": 32, "resize": "pad"},
    "augment": {"views": 1, "workers": 0},
    "tune": {"trials": 2, "search": {"batch_size": [16, 32], "lr": {"low": 1e-3, "high": 5e-3}}},
    "finetune": {"epochs": 2},
    "evaluate": {"bootstrap": 100},
    "export": {"batch_size": 4, "latency_repeats": 3, "prefer": "accurate", "max_loss": 0.01, "int8_trials": 2},
    "register": {"min_macro_f1": 0.0, "max_ece": 1.0},
}


def make_images(folder: Path) -> None:
    """Each class has one bright channel; sizes and formats vary as a user's would, and one file is broken."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(14):
            pixels = rng.integers(0, 120, (rng.integers(40, 60), rng.integers(40, 60), 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.{('png', 'jpg')[number % 2]}")
    (folder / "red" / "broken.jpg").write_bytes(b"not an image")


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The line after its first `dvc repro`, committed."""
    project = begin(tmp_path_factory.mktemp("line"), make_images, SMALL)
    project.dvc("repro")
    project.commit("Run the line")
    return project
