"""report.html is whole, opens offline, runs nothing, and says what the numbers say."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from transferline.artifacts import Arrays, Best, Candidate, Choice, ModelCard
from transferline.evaluation import metrics, report
from transferline.evaluation.label_errors import Judgement, LabelErrors
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.outcome import Outcome
from transferline.sections import Evaluate

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks nesting, and gathers the tags, the addresses and the visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


GAIN = {
    "probe": {"accuracy": 0.7, "macro_f1": 0.65, "intervals": {"accuracy": [0.6, 0.8], "macro_f1": [0.55, 0.75]}},
    "gain": {
        "accuracy": {"difference": 0.05, "low": -0.01, "high": 0.11},
        "macro_f1": {"difference": 0.0612, "low": 0.0204, "high": 0.1},
    },
}
CHOICE = Choice(
    [
        Candidate("linear probe", 0.51, 0.8, 0.75, 0.2, 0.05),
        Candidate("fine-tuned", 0.31, 0.9, 0.87, 0.0, 0.0),
    ],
    chosen="fine-tuned",
    reason="It is the best by four standard errors.",
    refit=True,
)


def score(outcome: Outcome) -> dict:
    return metrics.evaluate(outcome, bins=10, resamples=100, seed=1) | GAIN


EVIL = "<script>alert(1)</script>"
DOUBTS = LabelErrors(
    [
        Judgement("train/odd, name.jpg", "train", "nominal", "local", 0.0123, suspected=True, row=3),
        Judgement(f"test/{EVIL}.jpg", "test", "local", "global", 0.0456, suspected=True, row=1),
        Judgement("val/fine.jpg", "val", "local", "local", 0.9876, suspected=False, row=2),
    ]
)


def write(
    folder,
    outcome: Outcome,
    gallery: int = 5,
    doubts: LabelErrors | None = DOUBTS,
    shown: int = 12,
    choice: Choice = CHOICE,
    **more: object,
) -> str:
    count = len(outcome.labels)
    images = np.zeros((count, 1, 8, 8, 3), np.uint8)
    paths = [f"folder/image_{row}.jpg" for row in range(count)]
    test = Arrays(images, outcome.labels, paths, outcome.classes)
    card = ModelCard("resnet18", outcome.classes, 224, "pad", [0.485, 0.456, 0.406], [0.2, 0.2, 0.2], 0.25)
    best = Best(
        0.00123,
        48,
        3,
        0.91,
        study="secret-study",
        run_id="secret-id",
        choices={"weight_decay": 0.07, "hidden": [96, 24]},
    )
    splits = {"train": test, "val": test, "test": test}
    if doubts:
        doubts = LabelErrors([one for one in doubts.ranked if one.row < count])
    options = Evaluate(gallery=gallery, label_errors=shown)
    scores = score(outcome) | more
    report.write(
        folder, outcome, scores, splits=splits, card=card, best=best, choice=choice, options=options, doubts=doubts
    )
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, outcome):
    """The report of the ordinary outcome, with two mistakes listed."""
    folder = tmp_path_factory.mktemp("report")
    write(folder, outcome, gallery=2)
    return folder


@pytest.fixture(scope="module")
def source(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_needs_nothing_from_outside(source) -> None:
    page = Page(source)
    assert page.open == []
    assert len(page.addresses) == 5
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & page.tags
    assert not re.search(r"https?://|@import|url\(", source)


def test_a_class_name_is_shown_not_run(outcome_of, tmp_path) -> None:
    source = write(tmp_path, outcome_of(classes=(EVIL, "good")))
    assert "script" not in Page(source).tags
    assert EVIL in Page(source).text


def test_numbers_intervals_and_configuration_are_there(outcome, source) -> None:
    scores, text = score(outcome), Page(source).text
    for name in ("macro_f1", "accuracy", "balanced_accuracy"):
        low, high = scores["intervals"][name]
        assert f"{scores[name]:.4f} 95 % interval {low:.4f} – {high:.4f}" in text
    for expected in ("resnet18", "pad", "0.485, 0.456, 0.406", "0.00123", "48", "weight_decay", "0.07", "96, 24"):
        assert expected in text
    counts = np.bincount(outcome.labels)
    assert f"nominal {counts[0]} {counts[0]} {counts[0]}" in text


def test_what_fine_tuning_was_worth_is_told_at_the_top(outcome, labelled, tmp_path) -> None:
    for folder, made, accuracy in (("one", outcome, "Accuracy"), ("many", labelled, "Exact match")):
        scores, text = score(made), Page(write(tmp_path / folder, made)).text
        told = (
            "Fine-tuning gained 0.061 macro-F1 over the linear probe on frozen features (95 % interval 0.020 to 0.100)."
        )
        assert text.index(told) < text.index("Macro-F1 ")
        low, high = scores["intervals"]["accuracy"]
        final = f"{scores['accuracy']:.4f} ({low:.4f} – {high:.4f})"
        assert f"{accuracy} 0.7000 (0.6000 – 0.8000) {final} +0.0500 (-0.0100 – +0.1100)" in text
        assert "+0.0612 (+0.0204 – +0.1000)" in text


def test_what_finetune_chose_is_shown_with_its_reason(source, outcome, tmp_path) -> None:
    text = Page(source).text
    assert "On validation finetune chose fine-tuned . It is the best by four standard errors." in text
    assert "fitted again, on train and validation together" in text
    assert "linear probe 0.5100 0.8000 0.7500 +0.2000 (0.0500)" in text
    assert "fitted again" not in Page(write(tmp_path / "once", outcome, choice=replace(CHOICE, refit=False))).text


def test_mistakes_are_listed_with_their_files(outcome, source) -> None:
    text = Page(source).text
    first, second, third = (f"folder/image_{row}.jpg" for row in outcome.mistakes[:3])
    assert first in text
    assert second in text
    assert third not in text


def test_the_commonest_confusion_is_named(tmp_path) -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 0])
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.9, 0.1)
    text = Page(write(tmp_path, Multiclass(labels, probabilities, probabilities, 1.0, ["cat", "dog"]))).text
    assert "names 3 of 6 test images correctly" in text
    assert "to take cat for dog (2 of 3 mistakes)" in text


def test_no_mistake_is_not_sold_as_perfection(outcome_of, tmp_path) -> None:
    text = Page(write(tmp_path, outcome_of(images=60, margin=50.0))).text
    assert "60 of 60" in text
    assert "fewer than about 5.0 % of new images" in text


def test_suspected_labels_are_listed_with_what_to_do(source) -> None:
    text = Page(source).text
    assert "1 train/odd, name.jpg train nominal local 0.0123" in text
    assert f"2 test/{EVIL}.jpg test local global 0.0456" in text
    assert "val/fine.jpg" not in text
    assert (
        "The judges agree with 0.0 % of the train labels, 100.0 % of the val labels, 0.0 % of the test labels." in text
    )
    assert "Nothing is removed or changed because of this" in text
    assert "exclude.txt" in text


def test_as_many_suspected_labels_are_shown_as_asked_for(outcome, tmp_path) -> None:
    text = Page(write(tmp_path, outcome, shown=1)).text
    assert "train/odd, name.jpg" in text
    assert EVIL not in text


def test_labels_that_were_not_judged_are_not_called_right(outcome, tmp_path) -> None:
    text = Page(write(tmp_path, outcome, doubts=None, shown=0)).text
    assert "The judges" not in text
    assert (tmp_path / "label_errors.csv").read_text() == "path,split,given,suggested,quality,suspected\n"


def test_a_leaking_split_is_told_with_figures_without_it(outcome, labelled, source, tmp_path) -> None:
    figures = {
        "images": 7,
        "accuracy_with": 0.9,
        "accuracy_without": 0.8,
        "macro_f1_with": 0.7,
        "macro_f1_without": 0.6,
    }
    for folder, made in (("one", outcome), ("many", labelled)):
        text = Page(write(tmp_path / folder, made, leakage=figures)).text
        assert "7 of the 120 test images have a near duplicate in train" in text
        assert "accuracy is 0.8000 instead of 0.9000, macro-F1 0.6000 instead of 0.7000" in text
    assert "near duplicate" not in Page(source).text
    none = figures | {"accuracy_without": None, "macro_f1_without": None}
    assert "No test image is left" in Page(write(tmp_path / "none", outcome, leakage=none)).text


def test_undefined_numbers_are_a_dash(tmp_path) -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    outcome = Multiclass(np.array([0, 0]), probabilities, probabilities, 1.0, ["a", "b"])
    assert "one class against the rest – –" in Page(write(tmp_path, outcome)).text


def test_label_sets_have_a_page_of_their_own(labelled, tmp_path) -> None:
    page, scores = Page(write(tmp_path, labelled)), score(labelled)
    assert page.open == []
    low, high = scores["intervals"]["accuracy"]
    assert f"Exact match {scores['accuracy']:.4f} 95 % interval {low:.4f} – {high:.4f}" in page.text
    assert f"cat {scores['thresholds']['cat']:.4f} {scores['per_class']['cat']['precision']:.4f}" in page.text
    counts = labelled.labels.sum(axis=0)
    assert f"cat {counts[0]} {counts[0]} {counts[0]}" in page.text
    assert "all images 120 120 120" in page.text
    _, missed, false = labelled.tallies.sum(axis=0)
    assert f"decides {labelled.labels.size - missed - false} of {labelled.labels.size} labels correctly" in page.text
    first = labelled.mistakes[0]
    assert f"folder/image_{first}.jpg" in page.text
    assert "taken for" not in page.text


def test_label_sets_without_a_mistake_are_no_proof_of_perfection(labelled_of, tmp_path) -> None:
    assert "fewer than about 5.0 % of new images" in Page(write(tmp_path, labelled_of(images=60, margin=90.0))).text


def test_equal_results_are_equal_bytes_without_ids(outcome, source, tmp_path) -> None:
    assert write(tmp_path, outcome, gallery=2) == source
    assert "secret" not in source


def test_headline_is_one_line() -> None:
    scores = {"macro_f1": 0.98512, "intervals": {"macro_f1": [0.9701, 0.9961]}, "images": 300} | GAIN
    line = "macro-F1 0.985 (0.970-0.996) on 300 test images, linear probe 0.650"
    assert report.headline(scores) == line
    for suspected, told in ((0, ""), (1, ", 1 suspected label error"), (3, ", 3 suspected label errors")):
        doubted = scores | {"label_errors": {"suspected": suspected}}
        assert report.headline(doubted) == line + told


def test_pictures_lie_beside_the_page(folder) -> None:
    assert {file.name for file in folder.iterdir()} == {
        *report.PICTURES,
        "confusion.csv",
        "label_errors.csv",
        "report.html",
    }
