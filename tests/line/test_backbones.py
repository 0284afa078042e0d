"""The whole line for a backbone of each make, as an experiment: `dvc exp run -S model.backbone=...`."""

import json
from typing import Any

import onnx
import pytest

from tests.line.conftest import SMALL, make_images
from tests.project import Project, begin, ran
from transferline.artifacts import read_predictions

BACKBONES = ("vgg16", "resnet50", "inception_v3", "xception", "convnext_tiny", "vit_b_16")  # SMALL has a MobileNet
ONCE: dict[str, dict[str, Any]] = {
    **SMALL,
    "model": {"weights": "none", "input_size": 96},
    "tune": {"trials": 0, "start": {"lr": 1e-3, "batch_size": 16, "freeze_depth": 3}},
    "finetune": {"epochs": 1},
    "export": {**SMALL["export"], "variants": ["fp32"]},  # tests/unit/deploy/test_reduced.py has the others
}


@pytest.fixture(scope="module")
def menu(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose images are prepared, committed."""
    project = begin(tmp_path_factory.mktemp("menu"), make_images, ONCE)
    project.dvc("repro", "fetch", "prepare")
    project.commit("Prepare")
    return project


@pytest.mark.backbones
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_line_leads_to_an_exported_model_that_agrees(menu: Project, backbone: str) -> None:
    output = menu.dvc("exp", "run", "--set-param", f"model.backbone={backbone}")
    assert ran(output) == ["augment", "tune", "train", "finetune", "evaluate", "export", "register"]
    parity = json.loads((menu.root / "reports/export/parity.json").read_text(encoding="utf-8"))
    predictions = read_predictions(menu.root / "reports/evaluate/predictions.parquet")
    assert (parity["passed"], parity["images"]) == (True, len(predictions.paths))
    assert len(predictions.paths) == 6
    exported = onnx.load(menu.root / "models/onnx/model.onnx")
    assert {entry.key: entry.value for entry in exported.metadata_props}["backbone"] == backbone
