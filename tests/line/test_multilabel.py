"""The whole line on images with any number of labels, from a CSV to a verified file that answers with sets."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.line.conftest import CLASSES, SMALL
from tests.project import Project, begin
from transferline.artifacts import read_arrays, read_manifest, read_predictions
from transferline.labelsets import names_of

IMAGES = 96
LABELS = "labels.csv"
LEARNING: dict[str, dict[str, Any]] = {  # enough of it that images are given different labels
    "model": {**SMALL["model"], "backbone": "resnet18"},
    "tune": {"trials": 0, "start": {"lr": 0.002, "batch_size": 16, "freeze_depth": 0}},
    "finetune": {"epochs": 8},
}


def make_labelled_images(folder: Path) -> None:
    """Squares of up to three colours on noise, each colour there or not; a file that is broken, and one not listed."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = [["images/broken.png", 1, 0, 0]]
    (folder / "images" / "broken.png").write_bytes(b"not an image")
    (folder / "images" / "unlisted.png").write_bytes(b"of no concern")
    for number in range(IMAGES):
        flags = [(number >> label) & 1 for label in range(3)]  # every set of labels equally often
        pixels = rng.integers(0, 60, (rng.integers(40, 56), rng.integers(40, 56), 3), dtype=np.uint8)
        for label in np.flatnonzero(flags):
            top, left = rng.integers(0, 22, 2)
            pixels[top : top + 18, left : left + 18, 2 - label] += 190
        Image.fromarray(pixels).save(folder / "images" / f"{number:02d}.png")
        rows.append([f"images/{number:02d}.png", *flags])
    with (folder / LABELS).open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([["path", *CLASSES], *rows])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The line after `dvc repro` on such images."""
    params = {**SMALL, **LEARNING, "data": {"labels": LABELS}}
    project = begin(tmp_path_factory.mktemp("labelled"), make_labelled_images, params)
    project.dvc("repro")
    return project


@pytest.fixture(scope="module")
def report(labelled: Project) -> Callable[[str], dict[str, Any]]:
    return lambda path: json.loads((labelled.root / path).read_text(encoding="utf-8"))


def test_check_counts_labels_and_says_what_is_left_out(labelled: Project) -> None:
    done = labelled.run("transferline", "check")
    assert done.returncode == 0, done.stderr
    assert f"holds {IMAGES + 1} files with 3 labels ({LABELS})" in done.stdout
    assert f"1 files are not in {LABELS} and are left out: images/unlisted.png" in done.stdout


def test_labels_go_from_the_csv_to_the_arrays(labelled: Project) -> None:
    rows = read_manifest(labelled.root / "data/prepared/manifest.parquet")
    assert len(rows) == IMAGES
    by_path = {row.path: row for row in rows}
    assert by_path["images/05.png"].label == f"{CLASSES[0]};{CLASSES[2]}"
    assert by_path["images/08.png"].label == ""
    for split in ("train", "val", "test"):
        arrays = read_arrays(split, labelled.root / "data/augmented")
        assert arrays.multilabel
        assert arrays.counts.min() > 0
        found = [names_of(by_path[path].label, multilabel=True) for path in arrays.paths]
        assert [arrays.names(row) for row in range(len(arrays.paths))] == found
    quarantine = (labelled.root / "data/prepared/quarantine.csv").read_text(encoding="utf-8")
    assert "images/broken.png,not an image" in quarantine
    assert f"images/unlisted.png,not in {LABELS}" in quarantine


def test_evaluate_reports_sets_cut_at_thresholds(labelled: Project, report: Callable[[str], dict[str, Any]]) -> None:
    scores = report("reports/evaluate/metrics.json")
    predictions = read_predictions(labelled.root / "reports/evaluate/predictions.parquet")
    assert set(scores["thresholds"]) == set(CLASSES)
    cuts = np.array([scores["thresholds"][name] for name in predictions.classes])
    found = [";".join(np.array(CLASSES)[row]) for row in predictions.probabilities >= cuts]
    assert found == predictions.predicted
    right = np.mean([label == given for label, given in zip(predictions.labels, found, strict=True)])
    assert scores["accuracy"] == pytest.approx(right)
    assert len(set(found)) > 2
    assert scores["gain"]["accuracy"]["difference"] == pytest.approx(right - scores["probe"]["accuracy"])
    assert scores["pr_auc"] > 0.75
    assert "macro_f1" in labelled.dvc("metrics", "show")
    assert "index.html" in labelled.dvc("plots", "show")


def test_the_exported_model_answers_as_evaluate_reported(
    labelled: Project, report: Callable[[str], dict[str, Any]]
) -> None:
    parity, scores = report("reports/export/parity.json"), report("reports/evaluate/metrics.json")
    assert parity["passed"]
    properties = {p.key: p.value for p in onnx.load(labelled.root / "models/onnx/model.onnx").metadata_props}
    assert properties["task"] == "multilabel"
    assert json.loads(properties["thresholds"]) == [scores["thresholds"][name] for name in CLASSES]
    assert report("reports/register/verdict.json")["passed"]


def test_predict_gives_each_image_its_labels(labelled: Project, report: Callable[[str], dict[str, Any]]) -> None:
    predictions = read_predictions(labelled.root / "reports/evaluate/predictions.parquet")
    files = [str(labelled.root.parent / "images" / path) for path in predictions.paths]
    done = labelled.run("transferline", "predict", "models/onnx/model.onnx", *files, "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [";".join(answer["labels"]) for answer in answers] == predictions.predicted
    thresholds = report("reports/evaluate/metrics.json")["thresholds"]
    for answer in answers:
        over = {name for name, value in answer["probabilities"].items() if value >= thresholds[name]}
        assert set(answer["labels"]) == over
