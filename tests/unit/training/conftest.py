"""Splits that are learnt in seconds, in a folder of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from transferline.artifacts import Arrays
from transferline.training.data import Splits


@pytest.fixture(scope="session")
def splits(colour_arrays: Callable[..., Arrays]) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(colour_arrays(48, views=3), colour_arrays(15, seed=1), hashes)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path
