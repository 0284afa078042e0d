"""A tiny classifier, exported once, and a small test split that it predicts."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from transferline import labelsets
from transferline.artifacts import ManifestRow, ModelCard, Predictions
from transferline.data.images import decode
from transferline.deploy import export, parity
from transferline.sections import Export

SIZES = [(40, 60), (40, 60), (40, 60), (61, 33), (50, 50), (19, 23)]  # height, width
CLASSES = ["blau", "grün", "rot"]
THRESHOLDS = {"blau": 0.5, "grün": 0.35, "rot": 0.625}


class TinyClassifier(nn.Module):
    """The interface of model.classifier.Classifier; it sees where in the image something is."""

    def __init__(self, mean: float = 0.5) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
            self.head = nn.Linear(64, len(CLASSES))
            nn.init.normal_(self.head.weight)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 255 * mean), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body((pixels - self.mean) / 64))


@dataclass(frozen=True)
class Line:
    """What lies before the export stage, and the model that comes out of it."""

    deployed: export.Deployed
    properties: dict[str, str]
    reference: parity.Reference
    model: Path


def make_card(resize: str = "squash") -> ModelCard:
    return ModelCard("tiny", CLASSES, 32, resize, [0.5] * 3, [0.25] * 3, 0.0)


def make_deployed(resize: str = "squash", mean: float = 0.5) -> export.Deployed:
    return export.Deployed(TinyClassifier(mean), make_card(resize), 1.7).eval()


def predict(deployed: export.Deployed, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return deployed(torch.from_numpy(images))[0].numpy()


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return _made(tmp_path_factory.mktemp("line"), make_card(), None)


@pytest.fixture(scope="session")
def labelled_line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The same of a classifier that gives any number of labels."""
    return _made(tmp_path_factory.mktemp("labelled"), replace(make_card(), task="multilabel"), THRESHOLDS)


@pytest.fixture
def crashing_onnxruntime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes started from now on, importing onnxruntime is the end."""
    folder = tmp_path_factory.mktemp("crashing")
    (folder / "onnxruntime.py").write_text("import os\nos.abort()\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def _made(root: Path, card: ModelCard, thresholds: dict[str, float] | None) -> Line:
    deployed = export.Deployed(TinyClassifier(), card, 1.7).eval()
    properties = export.metadata(card, 1.7, export.Lineage("c0ffee", "5ha", "run"), thresholds)
    model = root / "model.onnx"
    export.write_onnx(deployed, model, 20, properties)
    rows = _write_images(root / "data")
    tested = [row for row in rows if row.split == "test"]
    probabilities = np.concatenate([predict(deployed, decode(root / "data" / row.path)[None]) for row in tested])
    if thresholds:
        cut = probabilities >= np.array([thresholds[name] for name in CLASSES])
        predicted = [labelsets.join(np.array(CLASSES)[row]) for row in cut]
    else:
        predicted = [CLASSES[index] for index in probabilities.argmax(axis=1)]
    predictions = Predictions(
        [row.path for row in tested], [row.label for row in tested], predicted, probabilities, CLASSES
    )
    return Line(deployed, properties, parity.Reference(root / "data", rows, predictions, Export(batch_size=2)), model)


def _write_images(root: Path) -> list[ManifestRow]:
    """Six test images of four sizes; the one training image has no file, since none may be read."""
    rng = np.random.default_rng(0)
    rows = [ManifestRow("rot/seen.png", "rot", "train", "", "", 99, 8, 8)]
    (root / "rot").mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        path = f"rot/{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / path)
        rows.append(ManifestRow(path, "rot", "test", "", "", index, width, height))
    return rows
