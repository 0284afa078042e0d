"""What each stage writes, by the functions that write it, small: name -> a function of the folder to write into.

Each gives back a function that writes, so that what is drawn, trained or exported is made once, with room on the disk.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tests.unit.deploy.conftest import make_card, make_deployed
from tests.unit.evaluation.test_comparison import RESULTS
from tests.unit.training.test_lr_report import curve, valley
from transferline import artifacts
from transferline.artifacts import Best, ManifestRow, Predictions, RunRecord, write_csv
from transferline.data import arrays, samples, torchvision_sets
from transferline.data import pictures as data_pictures
from transferline.data.folders import replaced
from transferline.deploy import export
from transferline.evaluation import comparison, pictures
from transferline.evaluation.multiclass import Multiclass
from transferline.model import classifier
from transferline.training import lr_report
from transferline.training.pictures import draw_study

Write = Callable[[], object]
CLASSES = ["blau", "grün", "rot"]
WRITERS: dict[str, Callable[[Path, Path], Write]] = {}


def _writer(make: Callable[[Path, Path], Write]) -> Callable[[Path, Path], Write]:
    WRITERS[make.__name__] = make
    return make


def images(folder: Path, count: int = 6) -> list[ManifestRow]:
    """Of noise, a third in each split, which do not compress."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        split, label = artifacts.SPLITS[number % 3], CLASSES[number % 2]
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        made.append(ManifestRow(f"{label}/{number}.png", label, split, artifacts.sha256(path), "0", number, 50, 40))
    return made


@_writer
def fetch(folder: Path, spare: Path) -> Write:
    images(spare / "sample", count=40)

    def write() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("conformal_clip_data.textile_simulated_root", lambda: str(spare / "sample"))
            for file in (spare / "sample").glob("*/*.png"):
                file.rename(file.with_suffix(".jpg"))
            with replaced(folder / "sample") as partial:
                samples._lay_out_textile(partial)

    return write


@_writer
def fetch_torchvision(folder: Path, spare: Path) -> Write:
    rows = images(spare / "set", count=12)
    part = [(Image.open(spare / "set" / row.path), CLASSES.index(row.label)) for row in rows]

    def write() -> None:
        with replaced(folder / "sample") as partial:
            torchvision_sets._write("CIFAR10", part, partial / "train")

    return write


@_writer
def manifest(folder: Path, _: Path) -> Write:
    digests = np.random.default_rng(0).bytes(32 * 300).hex()
    rows = [
        ManifestRow(f"a/{number}.png", "a", "train", digests[64 * number :][:64], "0" * 16, number, 50, 40)
        for number in range(300)
    ]
    return lambda: artifacts.write_manifest(rows, folder / "prepared" / "manifest.parquet")


@_writer
def quarantine(folder: Path, _: Path) -> Write:
    rows = [(f"a/{number}.png", "empty file") for number in range(500)]
    return lambda: write_csv(folder / "prepared" / "quarantine.csv", ["path", "reason"], rows)


@_writer
def prepare_picture(folder: Path, _: Path) -> Write:
    return lambda: data_pictures.classes({"a": [5, 2, 2], "b": [3, 1, 1]}, [8, 3, 3], folder / "classes.png")


@_writer
def augment(folder: Path, spare: Path) -> Write:
    rows = images(spare / "images")
    recipe = arrays.Recipe(size=32, fit="squash", views=0, policy=(), seed=1)

    def write() -> None:
        with pytest.MonkeyPatch.context() as patch:  # something else fills the disk after the look at it
            patch.setattr(arrays, "require_space", lambda *_: None)
            arrays.write(rows, spare / "images", recipe, 0, folder / "augmented")

    return write


@_writer
def best(folder: Path, _: Path) -> Write:
    return lambda: artifacts.write_best(Best(1e-3, 32, 3, 0.9, "study", "run", {}), folder / "best.json")


@_writer
def study(folder: Path, _: Path) -> Write:
    made = optuna.create_study()
    made.add_trial(optuna.trial.create_trial(value=0.5))
    return lambda: draw_study(made, folder / "tune")


@_writer
def model(folder: Path, _: Path) -> Write:
    net = make_deployed().classifier
    return lambda: classifier.save(net, make_card(), folder / "head")


@_writer
def predictions(folder: Path, _: Path) -> Write:
    stated = np.random.default_rng(0).dirichlet(np.ones(3), 400).astype(np.float32)
    given = Predictions([f"{n}.jpg" for n in range(400)], ["rot"] * 400, ["rot"] * 400, stated, CLASSES)
    return lambda: artifacts.write_predictions(given, folder / "evaluate" / "predictions.parquet")


@_writer
def metrics(folder: Path, _: Path) -> Write:
    return lambda: artifacts.write_json(folder / "metrics.json", {"macro_f1": 0.9})


@_writer
def evaluate_picture(folder: Path, _: Path) -> Write:
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().imshow(np.random.default_rng(0).random((40, 40)))
    return lambda: pictures.save(figure, folder / "confusion.png")


@_writer
def confusion(folder: Path, _: Path) -> Write:
    stated = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    outcome = Multiclass(np.arange(60) % 3, stated, stated, 1.0, CLASSES)
    return lambda: pictures.write_confusion_csv(outcome, folder / "confusion.csv")


@_writer
def report(folder: Path, _: Path) -> Write:
    return lambda: artifacts.write_text(folder / "report.html", "<p>" + "é" * 20_000)


@_writer
def onnx(folder: Path, _: Path) -> Write:
    """Translated once, written for real each time."""
    kept: list[object] = []
    translate = torch.onnx.export

    def once(*given: object, **options: object) -> object:
        kept[:] = kept or [translate(*given, **options)]
        return kept[0]

    deployed = make_deployed()
    about = export.metadata(make_card(), 1.7, export.Lineage("c0ffee", "5ha", "run"))

    def write() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.onnx, "export", once)
            with artifacts.atomic(folder / "onnx" / "model.onnx") as partial:
                export.write_onnx(deployed, partial, 20, about)

    return write


@_writer
def run_record(folder: Path, _: Path) -> Write:
    return lambda: artifacts.write_run(RunRecord("tune", "run", "parent", {"a": "0" * 64}), folder / "runs")


@_writer
def compare(folder: Path, _: Path) -> Write:
    return lambda: comparison.write(RESULTS, {"images": 40}, folder / "compare")


@_writer
def lr_find(folder: Path, _: Path) -> Write:
    found = curve(valley())
    return lambda: lr_report.write(found, {"backbone": "tiny"}, folder / "lr_find")
