"""The pictures say what the outcome holds, whatever the classes are called and however many there are."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from transferline.evaluation import gallery, pictures
from transferline.evaluation.calibration import reliability
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Curve, Mark


def texts(figure) -> str:
    """Every text of the figure, a line each."""
    return "\n".join(found.get_text() for found in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def curves(count: int) -> list[Curve]:
    line = np.array([1.0, 0.5, 0.0])
    return [Curve(f"class {index}", 1 - line / 2, line, index / count) for index in range(count)]


def test_confusion_shows_every_count() -> None:
    shown = texts(pictures.draw_confusion(np.array([[41, 2], [3, 57]]), ["good", "bad"])).split("\n")
    assert {"41", "2", "3", "57", "good", "bad"} <= set(shown)


def test_confusion_of_many_classes_is_colour_alone(tmp_path) -> None:
    figure = pictures.draw_confusion(np.full((40, 40), 777), [f"class {index}" for index in range(40)])
    assert "777" not in texts(figure)
    pictures.save(figure, tmp_path / "confusion.png")


def test_a_class_without_images_leaves_its_row_white(tmp_path) -> None:
    figure = pictures.draw_confusion(np.array([[5, 0], [0, 0]]), ["good", "bad"])
    assert figure.axes[0].images[0].get_array()[1].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "50%", "a" * 200])
def test_odd_class_names_are_drawn_as_they_are(name, outcome_of, tmp_path) -> None:
    outcome = outcome_of(classes=(name, "other"), margin=0.0)
    figures = [
        pictures.draw_confusion(np.eye(2, dtype=np.int64), outcome.classes),
        pictures.draw_pr_curves([curves(1)[0]._replace(name=name)]),
        gallery.draw_mistakes(outcome, images(120), 3),
    ]
    for figure in figures:
        pictures.save(figure, tmp_path / "picture.png")  # a dollar taken for mathematics would fail here
        assert name.replace("$", r"\$")[:10] in texts(figure)


def test_reliability_has_both_errors_and_the_temperature(outcome) -> None:
    before = reliability(*outcome.decisions(outcome.uncalibrated), 10)
    after = reliability(*outcome.decisions(outcome.probabilities), 10)
    shown = texts(pictures.draw_reliability(before, after, 0.8))
    assert f"ECE {before.error:.4f}" in shown
    assert f"ECE {after.error:.4f}" in shown
    assert "temperature 0.800" in shown


def test_only_the_worst_of_many_curves_are_named() -> None:
    shown = texts(pictures.draw_pr_curves(curves(25)))
    assert "class 0" in shown
    assert "class 24" not in shown


def test_curves_say_where_they_are_cut() -> None:
    figure = pictures.draw_pr_curves([curves(1)[0]._replace(mark=Mark(0.25, 0.5, 0.75))])
    assert "class 0 (cut at 0.25)" in texts(figure)
    assert any((line.get_xdata() == 0.5).all() and (line.get_ydata() == 0.75).all() for line in figure.axes[0].lines)


def test_tallies_show_what_was_found_missed_and_imagined() -> None:
    shown = texts(pictures.draw_tallies(np.array([[41, 2, 5], [3, 57, 11]]), ["cat", "dog"]))
    for expected in ("41 · 2 · 5", "3 · 57 · 11", "found (44)", "missed (59)", "false alarms (16)", "cat", "dog"):
        assert expected in shown


def test_gallery_of_label_sets_names_all_labels_or_none(labelled) -> None:
    figure = gallery.draw_mistakes(labelled, images(120), 24)
    shown = [axes for axes in figure.axes if axes.images]
    for axes, row in zip(shown, labelled.mistakes[:24], strict=True):
        expected = ", ".join(labelled.names(labelled.members[row])) or "no label"
        assert " ".join(axes.get_title().split()).endswith(expected)
    assert "no label" in texts(figure)


def test_confusion_csv_of_label_sets_has_a_row_a_label_that_is_there_or_given(tmp_path) -> None:
    labels = np.array([[1, 1], [0, 0], [0, 1]])
    probabilities = np.array([[0.9, 0.1], [0.1, 0.2], [0.8, 0.9]])
    outcome = Multilabel(labels, probabilities, probabilities, 1.0, ["a", "b"], np.array([0.5, 0.5]))
    pictures.write_confusion_csv(outcome, tmp_path / "confusion.csv")
    assert (tmp_path / "confusion.csv").read_text().splitlines() == [
        "actual,predicted",
        "a,a",
        "b,(not found)",
        "(not there),a",
        "b,b",
    ]


def test_no_curve_is_said_in_words() -> None:
    assert "single class" in texts(pictures.draw_pr_curves([]))


def test_gallery_has_the_most_confident_mistakes_first(outcome) -> None:
    figure = gallery.draw_mistakes(outcome, images(120), 4)
    rows = outcome.mistakes[:4]
    shown = [axes for axes in figure.axes if axes.images]
    confidences = [float(axes.get_xlabel().split()[-1].rstrip("%")) for axes in shown]
    assert len(shown) == 4
    assert confidences == sorted(confidences, reverse=True)
    for axes, row in zip(shown, rows, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images(120)[row])
        assert outcome.classes[outcome.labels[row]] in axes.get_title()
        assert outcome.classes[outcome.predicted[row]] in axes.get_xlabel()


def test_gallery_without_mistakes_says_so(outcome_of) -> None:
    assert texts(gallery.draw_mistakes(outcome_of(margin=50.0), images(120), 4)) == "no mistakes on 120 test images"


def test_gallery_switched_off_says_so(outcome) -> None:
    assert "none shown" in texts(gallery.draw_mistakes(outcome, images(120), 0))


def test_equal_figures_are_equal_bytes(outcome, tmp_path) -> None:
    for name in ("first.png", "second.png"):
        pictures.save(gallery.draw_mistakes(outcome, images(120), 4), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_confusion_csv_has_one_row_an_image(outcome_of, tmp_path) -> None:
    outcome = outcome_of(classes=('with, comma and "quote"', "plain"))
    pictures.write_confusion_csv(outcome, tmp_path / "confusion.csv")
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["actual"] for row in rows] == [outcome.classes[index] for index in outcome.labels]
    assert [row["predicted"] for row in rows] == [outcome.classes[index] for index in outcome.predicted]


def test_drawing_needs_no_scikit_learn_and_no_torch() -> None:
    heavy = {"sklearn", "torch", "matplotlib.pyplot"}
    code = f"import sys, transferline.evaluation.gallery; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
