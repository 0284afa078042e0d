"""An exported file is enough to predict with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline.data.images import ImageError
from transferline.deploy import export
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError

from .conftest import CLASSES, Line


def test_predicts_what_evaluate_reported(line: Line) -> None:
    predictor = Predictor(line.model)
    predictions = line.reference.predictions
    found = np.stack([predictor.predict_file(line.reference.root / path) for path in predictions.paths])
    np.testing.assert_allclose(found, predictions.probabilities, atol=1e-5)
    assert predictor.classes == CLASSES
    assert predictor.metadata["backbone"] == "tiny"


def test_labels_are_the_likeliest_class_or_those_at_their_thresholds(line: Line, labelled_line: Line) -> None:
    one, several = Predictor(line.model), Predictor(labelled_line.model)
    assert one.thresholds is None
    assert one.labels(np.array([0.2, 0.5, 0.3], np.float32)) == ["grün"]
    assert several.labels(np.array([0.5, 0.34, 0.625], np.float32)) == ["blau", "rot"]
    assert several.labels(np.array([0.49, 0.34, 0.6], np.float32)) == []


def test_missing_model_is_a_message_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.onnx is missing\n.*dvc repro"):
        Predictor(tmp_path / "nothing.onnx")


def test_file_that_is_no_model_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(UserError, match="is no ONNX model"):
        Predictor(tmp_path / "model.onnx")


def test_model_without_class_names_is_a_message(line: Line, tmp_path: Path) -> None:
    export.write_onnx(line.deployed, tmp_path / "model.onnx", 20, {})
    with pytest.raises(UserError, match="carries no class names"):
        Predictor(tmp_path / "model.onnx")


def test_broken_image_raises(line: Line, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError):
        Predictor(line.model).predict_file(tmp_path / "x.jpg")


def test_decompression_bomb_is_refused_before_it_is_decoded(line: Line, tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_001)).save(tmp_path / "bomb.png")  # 200 million pixels in 25 KB
    with pytest.raises(ImageError, match="over the limit of 200000000"):
        Predictor(line.model).predict_file(tmp_path / "bomb.png")
