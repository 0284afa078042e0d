"""Backbones side by side: which is best, which are on the Pareto front, what is written and drawn."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from transferline.evaluation import comparison
from transferline.evaluation.comparison import Measured, Skipped


def measured(name: str, accuracy: float, latency: float) -> Measured:
    scores = [accuracy - 0.02, accuracy, accuracy + 0.02]
    return Measured(
        name, scores, [score - 0.1 for score in scores], 3_400_000, 224, 1280, latency, latency / 2, "cpu", 9
    )


SMALL, FAST, GOOD, SLOW = (
    measured("small", 0.80, 5.0),
    measured("fast", 0.70, 2.0),
    measured("good", 0.90, 20.0),
    measured("slow", 0.85, 40.0),
)
GONE = Skipped("gone", "no weights here")
RESULTS = [SMALL, GONE, SLOW, GOOD, FAST]


def test_the_most_accurate_is_first_and_of_equals_the_faster_one() -> None:
    assert [row.name for row in comparison.ranked(RESULTS)] == ["good", "slow", "small", "fast"]
    twin = measured("twin", 0.90, 10.0)
    assert comparison.ranked([GOOD, twin])[0] is twin


def test_on_the_front_nothing_is_both_slower_and_worse_than_another() -> None:
    assert comparison.front([SMALL, SLOW, GOOD, FAST]) == [FAST, SMALL, GOOD]
    assert comparison.front([GOOD, measured("twin", 0.90, 20.0)]) == [GOOD]
    assert comparison.front([GOOD, measured("slower twin", 0.90, 21.0)]) == [GOOD]


def test_the_table_lists_every_backbone_the_skipped_with_the_reason() -> None:
    columns, rows = comparison.table(RESULTS, 32)
    assert [row[0] for row in rows] == ["good", "slow", "small", "fast", "gone"]
    assert {len(row) for row in rows} == {len(columns)}
    assert rows[0][1:4] == ["0.9000", "0.8214 to 0.9786", "0.8000"]
    assert [row[-1] for row in rows] == ["Pareto front", "", "Pareto front", "Pareto front", "skipped: no weights here"]
    assert ">ms, 32 images, each" in columns


def test_figures_are_logged_by_name() -> None:
    figures = GOOD.metrics()
    assert figures["accuracy"] == pytest.approx(0.9)
    assert figures["macro_f1"] == pytest.approx(0.8)
    assert (figures["latency_ms"], figures["parameters"]) == (20.0, 3_400_000)
    assert figures["accuracy_low"] < 0.9 < figures["accuracy_high"]
    assert GONE.metrics() == {}
    assert GONE.about() == {"name": "gone", "skipped": "no weights here"}


def test_the_comparison_is_written_as_json_csv_and_picture(tmp_path: Path) -> None:
    comparison.write(RESULTS, {"images": 60, "folds": 3}, tmp_path)
    written = json.loads((tmp_path / "backbones.json").read_text())
    assert (written["best"], written["images"], written["folds"]) == ("good", 60, 3)
    assert [row["name"] for row in written["backbones"]] == ["good", "slow", "small", "fast"]
    assert [row["pareto"] for row in written["backbones"]] == [True, False, True, True]
    assert written["backbones"][0]["accuracy"] == GOOD.accuracy
    assert written["skipped"] == [{"name": "gone", "reason": "no weights here"}]
    rows = list(csv.DictReader((tmp_path / "backbones.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["good", "slow", "small", "fast"]
    assert float(rows[0]["accuracy"]) == pytest.approx(0.9)
    assert (tmp_path / "backbones.png").stat().st_size > 10_000
    before = (tmp_path / "backbones.png").read_bytes()
    comparison.write(RESULTS, {}, tmp_path)
    assert (tmp_path / "backbones.png").read_bytes() == before


def test_the_picture_shows_each_backbone_where_it_belongs() -> None:
    (axes,) = comparison.draw(comparison.ranked(RESULTS)).axes
    assert axes.get_xscale() == "log"
    named = {text.get_text(): text.xy for text in axes.texts}
    assert set(named) == {"good", "slow", "small", "fast"}
    assert named["fast"] == pytest.approx((2.0, 0.70))
    front = axes.lines[-1]
    np.testing.assert_allclose(front.get_xydata(), [(2.0, 0.70), (5.0, 0.80), (20.0, 0.90)])


def test_a_single_backbone_is_drawn_too() -> None:
    assert len(comparison.draw([GOOD]).axes[0].texts) == 1
