"""The scripts beside the line, run whole on small made images: what is filed in MLflow, printed and left on disk."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.contract.closure import ROOT
from transferline import artifacts
from transferline.artifacts import ManifestRow
from transferline.data import arrays
from transferline.deploy.cli import app
from transferline.deploy.compare import Comparison

pytestmark = [
    # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.usefixtures("images"),
]


@pytest.fixture
def images(project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose prepare and augment have run; its scripts are the repository's own."""
    monkeypatch.setenv("DVC_ROOT", str(Path.cwd()))  # caches are the test's own; its store stays where it is
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.client.tracking_uri)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("pipeline").symlink_to(ROOT / "pipeline")
    Path("params.yaml").write_text(
        f"tracking: {{experiment: {project.experiment}}}\n"
        "data: {root: images}\n"
        "model: {backbone: mobilenet_v3_small, weights: none, input_size: 32}\n"
        "activations: {engine: torch}\n"
        "compare: {backbones: [resnet50], weights: none, folds: 2}\n"
        "lr_find: {min_lr: 1.0e-4, steps: 30}\n"
        "tune: {trials: 0, start: {batch_size: 8, freeze_depth: 2}}\n"
        "finetune: {batchnorm: train, backbone_lr_factor: 0.5}\n"
    )
    rng, rows = np.random.default_rng(0), []
    Path("images").mkdir()
    for number in range(36):
        path, split = Path("images", f"{number:02d}.png"), ("val" if number < 6 else "test" if number < 12 else "train")
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 3] += 100
        Image.fromarray(pixels).save(path)
        digest = sha256(path.read_bytes()).hexdigest()
        rows.append(ManifestRow(path.name, "abc"[number % 3], split, digest, "", number, 32, 32))
    artifacts.write_manifest(rows)
    arrays.write(rows, Path("images"), arrays.Recipe(32, "squash", 0, (), 1), 0)


def run(*command: str) -> list[str]:
    """What a command that must succeed prints, line by line."""
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_backbones_are_compared_each_in_a_run_of_its_own(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Comparison, "_latency", lambda *_: (0.002, 0.001, "cpu"))
    for path in Path("images").glob("0?.png"):
        path.unlink()  # val and some of test: only train is read
    lines = run("compare-backbones", "mobilenet_v3_small", "resnet18", "resnet18")
    assert lines[0] == "compare: mobilenet_v3_small, resnet18, frozen, on the training images"
    assert lines[-1].startswith("compare: ")
    assert lines[-1].endswith(" -> reports/compare")
    assert any("Pareto front" in line for line in lines)
    written = json.loads(Path("reports/compare/backbones.json").read_text())
    assert written["images"] == 24
    assert {row["name"] for row in written["backbones"]} == {"mobilenet_v3_small", "resnet18"}

    record = artifacts.read_run("compare")
    assert record is not None
    stage = project.run(record.run_id)
    assert stage.info.status == "FINISHED"
    assert json.loads(stage.data.params["compare.backbones"]) == ["mobilenet_v3_small", "resnet18"]
    assert project.artifact(record.run_id, "reports/compare/backbones.png").exists()
    backbones = project.children(record.run_id)
    assert set(backbones) == {"mobilenet_v3_small", "resnet18"}
    figures = backbones["resnet18"].data.metrics
    assert {"accuracy", "macro_f1", "latency_ms", "parameters"} <= set(figures)
    assert figures["latency_ms"] == 2.0
    assert backbones["resnet18"].data.params["feature_dim"] == "512"


def test_a_learning_rate_is_suggested_and_its_curve_filed(project) -> None:
    threads = torch.get_num_threads()
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    lines = run("lr-find")
    assert lines[0] == "lr_find: 30 steps from 0.0001 to 1 with mobilenet_v3_small"
    assert lines[-1].startswith("lr_find: in params.yaml, tune.start.lr: ")
    assert lines[-1].endswith(" -> reports/lr_find")
    suggestion = json.loads(Path("reports/lr_find/lr_find.json").read_text())["suggestion"]
    assert 1e-4 < suggestion["lr"] < 1

    record = artifacts.read_run("lr_find")
    assert record is not None
    assert project.run(record.run_id).data.metrics["suggested_lr"] == suggestion["lr"]
    curve = project.client.get_metric_history(record.run_id, "loss")
    assert [point.step for point in curve] == list(range(len(curve)))
    assert project.artifact(record.run_id, "reports/lr_find/lr_find.png").exists()
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before
    left = {path.name for path in Path.cwd().iterdir()}
    assert left <= {"images", "data", "pipeline", "params.yaml", "reports", "runs", ".cache", "mlruns"}
    assert {path.name for path in Path("reports").iterdir()} == {"lr_find"}
    assert torch.get_num_threads() == threads
