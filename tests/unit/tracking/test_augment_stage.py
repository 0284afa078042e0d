"""The augment stage, run whole on a few images: what the audit leaves, and what a refusal does not leave."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline import artifacts
from transferline.data.evidence import Evidence, Transformed
from transferline.errors import UserError
from transferline.model import probing

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

SCRIPT = Path(__file__).parents[3] / "pipeline" / "augment.py"
PARAMS = """
tracking: {{experiment: {name}, registered_model: {name}}}
data: {{root: images}}
model: {{backbone: mobilenet_v3_small, input_size: 32}}
augment: {{workers: 0, audit: {audit}, {policy}}}
"""
LISTED = "views: 1, policy: [{name: quarter_turns}]"


def ruinous(take, model, seed, transforms) -> Evidence:
    """Evidence of two classes that the one transform swaps."""
    train = take(limit=4, splits=("train",))
    assert train.images.shape == (4, 1, 32, 32, 3)
    assert len(train.groups) == 4
    labels = np.arange(60, dtype=np.int64) % 2
    features = np.eye(2, dtype=np.float32)[labels] + 0.1
    (transform,) = transforms
    changed = Transformed(transform, features[:, ::-1].copy(), train.images[0, 0])
    return Evidence("net", features, labels, np.arange(60), np.arange(60), 2, train.images[0, 0], [changed])


def prepared(project, audit: str, policy: str = LISTED) -> None:
    rows = []
    for number in range(12):
        label, split = "ab"[number % 2], ("train", "train", "val", "test")[number // 3]
        file = Path("images") / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        rows.append(
            artifacts.ManifestRow(f"{label}/{number}.png", label, split, artifacts.sha256(file), "0", number, 32, 32)
        )
    artifacts.write_manifest(rows)
    Path("params.yaml").write_text(PARAMS.format(name=project.experiment, audit=audit, policy=policy))


def test_a_refused_policy_leaves_its_report_and_no_arrays(project, monkeypatch):
    prepared(project, "refuse")
    monkeypatch.setattr(probing, "look", ruinous)
    with pytest.raises(UserError, match=r"labels do not survive quarter_turns \(accuracy 1.00 -> 0.00"):
        runpy.run_path(str(SCRIPT))["main"]()
    assert not artifacts.ARRAYS.exists()
    assert artifacts.read_run("augment") is None
    assert json.loads(Path("reports/augment/audit.json").read_text())["findings"][0]["flagged"]
    assert not Path("reports/augment/preview.png").exists()


def test_a_flagged_policy_is_warned_of_and_carried_out(project, monkeypatch, capsys):
    prepared(project, "warn")
    monkeypatch.setattr(probing, "look", ruinous)
    runpy.run_path(str(SCRIPT))["main"]()
    assert "augment: quarter_turns: labels do not survive it" in capsys.readouterr().out
    assert artifacts.read_arrays("train").images.shape == (6, 2, 32, 32, 3)
    run = project.run(artifacts.read_run("augment").run_id)
    assert run.data.metrics["audit_flagged"] == 1
    assert run.data.metrics["audit_lost_quarter_turns"] > 0.9
    for name in ("audit.json", "audit.png", "preview.png"):
        assert project.artifact(run.info.run_id, f"reports/augment/{name}").exists()


def test_by_default_few_images_get_four_views_of_a_policy_that_suits_any_labels(project, capsys):
    prepared(project, "off", "policy: auto")
    runpy.run_path(str(SCRIPT))["main"]()
    assert "policy auto: random resized crop, shift, brightness, contrast, which suit any" in capsys.readouterr().out
    images = artifacts.read_arrays("train").images
    assert images.shape == (6, 5, 32, 32, 3)
    assert all((images[:, 0] != images[:, view]).any() for view in range(1, 5))
    assert not Path("reports/augment/audit.json").exists()
    assert Path("reports/augment/preview.png").exists()
