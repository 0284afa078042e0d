"""Classes and files with names that HTML, Matplotlib, MLflow or DVC could take for more than names: shown, not run."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline.artifacts import (
    Arrays,
    Best,
    Candidate,
    Choice,
    ModelCard,
    SplitName,
    read_arrays,
    read_manifest,
    write_manifest,
)
from transferline.data import arrays, manifest, pictures, reports, sources
from transferline.evaluation import gain, metrics, report
from transferline.evaluation.calibration import sigmoid, softmax
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Outcome
from transferline.sections import Evaluate, Prepare, Split
from transferline.tracking import store

CLASSES = (
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}$ $x$ $",
    "'; drop table runs; --",
    "-->{{ 7*7 }}{% raw %}",
    "<script>alert(1)<",
    "=cmd()",
    "[red]@{plot_divs}",
    "_hidden & <b>",
)
CLOSING = "</script><script>alert(1)</script>"  # a slash cannot stand in a folder's name, but in a labels.csv


class Page(HTMLParser):
    """Its tags, what their attributes are called, and the text that is seen."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_shown_and_not_run(page: Page, names: tuple[str, ...] | list[str]) -> None:
    assert not {"script", "iframe", "object", "svg"} & page.tags
    assert not {name for name in page.attributes if name.startswith("on")}
    for name in names:
        assert name in page.text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders and files of such names."""
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"<i>{number} $_$.png")
    return folder


@pytest.fixture
def made(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_prepare_and_augment_keep_such_names_through_every_file(made: Path) -> None:
    prepared = manifest.build(sources.scan(made / "images"), Split(), Prepare(), 7)
    write_manifest(prepared.rows)
    assert {row.label for row in read_manifest()} == set(CLASSES)
    reports.write_prepare(prepared, made / "images", made / "reports")
    with (made / "reports" / "counts.csv").open(encoding="utf-8", newline="") as stream:
        assert {row[0] for row in csv.reader(stream)} == {"class", *CLASSES}
    arrays.write(prepared.rows, made / "images", arrays.Recipe(32, "crop", 1, (), 7), workers=0)
    train = read_arrays("train")
    assert set(train.classes) == set(CLASSES)
    pictures.preview(train, made / "preview.png")
    with Image.open(made / "preview.png") as image:
        image.verify()


def outcome_of(classes: list[str]) -> Multiclass:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, len(classes), 80)
    logits = rng.normal(size=(80, len(classes)))
    logits[np.arange(80), labels] += 1.0
    return Multiclass(labels, softmax(logits), softmax(logits, 0.8), 0.8, classes)


def labelled_of(classes: list[str]) -> Multilabel:
    rng = np.random.default_rng(3)
    members = (rng.random((80, len(classes))) < 0.35).astype(np.int64)
    logits = rng.normal(size=members.shape) + 2 * (members - 0.5)
    return Multilabel(members, sigmoid(logits), sigmoid(logits, 0.8), 0.8, classes, np.full(len(classes), 0.5))


def write_report(folder: Path, outcome: Outcome) -> Page:
    count, classes = len(outcome.labels), outcome.classes
    paths = [f"{CLASSES[row % len(CLASSES)]}/{row} {CLOSING.replace('/', '')}.jpg" for row in range(count)]
    test = Arrays(np.zeros((count, 1, 8, 8, 3), np.uint8), outcome.labels, paths, classes)
    card = ModelCard("resnet18", classes, 224, "pad", [0.5] * 3, [0.2] * 3, 0.25)
    best = Best(0.001, 48, 3, 0.9, study="", run_id="", choices={"<script>": "<script>"})
    choice = Choice([Candidate("<b>probe</b>", 0.5, 0.8, 0.7, 0.1, 0.05)], "<b>probe</b>", "<script>", refit=True)
    splits: dict[SplitName, Arrays] = {"train": test, "val": test, "test": test}
    noise = np.random.default_rng(1).normal(size=(count, len(classes)))
    scores = metrics.evaluate(outcome, bins=10, resamples=5, seed=1)
    scores |= gain.measure(outcome, {"val": noise, "test": noise}, splits, resamples=5, seed=1)
    report.write(
        folder,
        outcome,
        scores,
        splits=splits,
        card=card,
        best=best,
        choice=choice,
        options=Evaluate(gallery=8),
        doubts=None,
    )
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    for row in outcome.mistakes[:8]:
        assert paths[row] in page.text
    return page


@pytest.mark.parametrize("kind", [outcome_of, labelled_of], ids=["classes", "label sets"])
def test_the_report_shows_such_names_and_runs_none(tmp_path: Path, kind: type[Outcome]) -> None:
    names = sorted([*CLASSES, CLOSING])
    assert_shown_and_not_run(write_report(tmp_path, kind(names)), names)


def test_dvcs_plots_page_is_not_left_by_a_label(tmp_path: Path) -> None:
    """`dvc plots show` puts confusion.csv into a script, as JSON in which nothing is escaped for HTML."""
    outcome = labelled_of(sorted([*CLASSES, CLOSING, "<!--<script>"]))
    write_report(tmp_path, replace(outcome))
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as stream:
        cells = {cell for row in csv.reader(stream) for cell in row}
    script = json.dumps(sorted(cells))
    assert "</" not in script
    assert "<!--" not in script
    assert any("<\\/script>" in cell for cell in cells)  # still told apart from others


@pytest.mark.parametrize("name", [*CLASSES, CLOSING, "a@b[0]", "..", "", "\n", "x" * 400])
def test_metrics_of_such_classes_have_names_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    key = store.key(f"f1/{name}")
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(key)
