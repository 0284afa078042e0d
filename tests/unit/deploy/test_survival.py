"""A file is tried where its crash harms no one."""

from pathlib import Path

import pytest

from transferline.deploy import survival
from transferline.errors import UserError

from .conftest import Line


def test_a_model_that_runs_survives(line: Line) -> None:
    survival.require(line.model)


def test_a_crash_is_an_error(line: Line, crashing_onnxruntime: None) -> None:
    with pytest.raises(UserError, match=rf"{line.model} crashes onnxruntime \(exit code -?\d+\)"):
        survival.require(line.model)


def test_errors_are_left_to_who_opens_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    survival.require(tmp_path / "model.onnx")
    survival.require(tmp_path / "missing.onnx")
