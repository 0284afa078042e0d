"""Timing is bounded, taken in turns, and written with its raw numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from transferline.deploy import latency
from transferline.deploy.predictor import Predictor

from .conftest import Line


def test_runs_are_taken_in_turns_after_warm_up() -> None:
    calls: list[str] = []
    first, second = latency.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), repeats=4)
    assert len(first) == len(second) == 4
    assert "".join(calls) == "ab" * (4 + 2)


def test_slow_engines_are_timed_three_times_only() -> None:
    first, second = latency.interleaved(lambda: None, lambda: None, repeats=1000, budget=0)
    assert len(first) == len(second) == 3


def test_medians_and_ratio_come_with_the_raw_numbers(tmp_path: Path) -> None:
    row = latency.Latency(8, [0.01, 0.02, 0.9], [0.04, 0.06, 0.06])
    latency.write([row], "cpu", tmp_path / "latency.json")
    (written,) = json.loads((tmp_path / "latency.json").read_text())["batches"]
    assert (written["onnx_median"], written["torch_median"]) == (0.02, 0.06)
    assert written["onnx_times_faster"] == pytest.approx(3)
    assert written["onnx_seconds"] == [0.01, 0.02, 0.9]
    assert latency.metrics([row])["latency_onnx_batch_8_ms"] == pytest.approx(20)


def test_both_engines_are_timed_at_each_batch_size(line: Line) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    measured = latency.measure(Predictor(line.model), line.deployed, image, [1, 2], repeats=3)
    assert [(row.batch_size, len(row.onnx_seconds), len(row.torch_seconds)) for row in measured] == [
        (1, 3, 3),
        (2, 3, 3),
    ]
