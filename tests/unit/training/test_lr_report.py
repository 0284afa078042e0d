"""What a curve of losses over rates says, and what is written of it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from transferline.errors import UserError
from transferline.on_demand import LrFind
from transferline.training import lr_report
from transferline.training.lr_report import Curve


def curve(losses: np.ndarray, **options: float) -> Curve:
    config = LrFind(**options)
    rates = np.geomspace(config.min_lr, config.max_lr, config.steps)
    return Curve(rates[: len(losses)], losses, config)


def valley(noise: float = 0.0) -> np.ndarray:
    """Falls fastest at 1e-4, is lowest at 1e-2, and rises from there."""
    places = np.linspace(-6, 0, 100)
    fall = 2 - 1.5 / (1 + np.exp(-4 * (places + 4)))
    return fall + np.maximum(places + 2, 0) ** 2 + noise * np.random.default_rng(0).normal(size=100)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_descent_and_a_tenth_of_the_minimum_are_found(noise: float) -> None:
    found = curve(valley(noise)).suggestion()
    assert found is not None
    assert 5e-5 < found.lr < 2e-4
    assert 2.5e-3 < found.minimum < 2e-2
    assert found.tenth == pytest.approx(found.minimum / 10, rel=0.05)
    assert found.low <= min(found.lr, found.tenth) <= max(found.lr, found.tenth) <= found.high


def test_the_message_is_what_to_write_into_params_yaml() -> None:
    found = curve(valley()).required()
    assert found.line().startswith(
        f"tune.start.lr: {found.lr:g} and tune.search.lr: {{low: {found.low:g}, high: {found.high:g}, log: true}}"
    )


def test_smoothing_does_not_lag_behind() -> None:
    """A running mean would put the minimum some steps further on."""
    losses = np.abs(np.arange(100) - 40.0)
    assert curve(losses).smoothed().argmin() == 40
    np.testing.assert_allclose(curve(np.full(100, 3.0)).smoothed(), 3.0)


@pytest.mark.parametrize("losses", [np.full(100, 1.1), np.linspace(1, 5, 100), np.linspace(1, 0.97, 100)])
def test_where_the_loss_never_falls_nothing_is_suggested(losses: np.ndarray) -> None:
    assert curve(losses).suggestion() is None
    with pytest.raises(UserError, match=r"did not fall between 1e-06 and 1.*\n.*raise lr_find.max_lr"):
        curve(losses).required()


@pytest.mark.parametrize("last", [math.inf, math.nan])
def test_a_last_loss_that_is_no_number_is_left_out(last: float) -> None:
    broken = curve(np.append(valley()[:80], last))
    assert np.isfinite(broken.smoothed()).all()
    assert broken.suggestion() is not None
    assert [step for step, _ in broken.points()] == list(range(80))
    assert broken.diverged


def test_the_curve_is_written_as_table_summary_and_picture(tmp_path: Path) -> None:
    found = curve(valley()[:90])
    lr_report.write(found, {"backbone": "resnet18"}, tmp_path)
    header, first, *rows = (tmp_path / "lr_find.csv").read_text().splitlines()
    assert header == "step,lr,loss,smoothed"
    assert first.startswith("0,1e-06,")
    assert len(rows) == 89
    summary = json.loads((tmp_path / "lr_find.json").read_text())
    assert (summary["backbone"], summary["steps_made"], summary["stopped_early"]) == ("resnet18", 90, True)
    assert summary["suggestion"]["lr"] == found.required().lr
    assert (tmp_path / "lr_find.png").stat().st_size > 10_000
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    lr_report.write(found, {"backbone": "resnet18"}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_curve_without_a_suggestion_is_drawn_too(tmp_path: Path) -> None:
    lr_report.write(curve(np.full(100, 1.1)), {}, tmp_path)
    assert json.loads((tmp_path / "lr_find.json").read_text())["suggestion"] is None
    assert (tmp_path / "lr_find.png").exists()
