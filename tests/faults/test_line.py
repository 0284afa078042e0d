"""The line killed outright in every stage, and its outputs broken between them."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kill_line import PARAMS, STAGES, TARGETS, make_images
from tests.faults.conftest import Whole
from tests.project import begin
from tests.repro import Repro, differences


def test_a_line_killed_once_in_every_stage_ends_as_an_undisturbed_one(whole: Whole, tmp_path: Path) -> None:
    project = begin(tmp_path, make_images, PARAMS)
    rng = np.random.default_rng()
    print(f"draws: {rng.bit_generator.seed_seq}")  # shown where the test fails
    for stage in STAGES:
        line = Repro(project)
        assert line.reaches(stage), line.text
        time.sleep(rng.uniform(0.0, whole.seconds[stage]))
        if line.process.poll() is None:
            line.strike(TARGETS[rng.integers(len(TARGETS))])
    last = Repro(project)
    assert last.ends() == 0, last.text
    assert differences(project.root, whole.project.root) == []


@pytest.mark.parametrize(
    ("path", "writer", "stage"),
    [
        ("data/prepared/manifest.parquet", "prepare", "augment"),
        ("data/augmented/train/images.npy", "augment", "train"),
        ("models/head/model.safetensors", "train", "finetune"),
        ("models/onnx/model.onnx", "export", "register"),
    ],
)
@pytest.mark.parametrize("fault", ["flipped", "truncated", "removed"])
def test_a_file_broken_between_stages_is_named_with_what_mends_it(
    whole: Whole, path: str, writer: str, stage: str, fault: str
) -> None:
    place = whole.project.root / path
    kept = place.read_bytes()
    place.unlink()  # DVC's cache may hold the same inode
    if fault != "removed":
        broken = bytearray(kept if fault == "flipped" else kept[: len(kept) // 2])
        broken[len(broken) // 2] ^= 16
        place.write_bytes(broken)
    try:
        done = whole.project.run("python", "-m", f"pipeline.{stage}")
    finally:
        place.write_bytes(kept)
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    for word in (path, writer, "dvc repro"):
        assert word in done.stderr
