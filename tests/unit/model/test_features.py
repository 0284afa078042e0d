"""Pooled features of a frozen backbone: what the head would see, whatever engine computes them."""

import numpy as np
import pytest
import torch

from tests.unit.model.passes import assert_same_pass
from transferline.artifacts import ModelCard
from transferline.model import classifier
from transferline.model.features import Extractor, extract

SIDE = 32


@pytest.fixture(scope="module")
def net() -> classifier.Classifier:
    card = ModelCard("mobilenet_v3_small", ["a", "b"], SIDE, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
    return classifier.build(card, "none", seed=0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (37, SIDE, SIDE, 3), dtype=np.uint8)


def by_hand(net: classifier.Classifier, images: np.ndarray) -> np.ndarray:
    net.eval()
    with torch.inference_mode():
        features = net.normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float())
        for block in net.blocks:
            features = block(features)
        return net.head.pool(features).flatten(1).numpy()


@pytest.mark.parametrize("engine", ["auto", "torch", "onnxruntime"])
def test_features_are_what_the_head_takes_in(net: classifier.Classifier, images: np.ndarray, engine: str) -> None:
    features = extract(net.train(), images, engine)
    expected = by_hand(net, images)
    assert features.dtype == np.float32
    assert features.shape == (37, 576)
    assert_same_pass(features, expected)


def test_they_do_not_depend_on_the_batch(net: classifier.Classifier, images: np.ndarray) -> None:
    extractor = Extractor(net, 37, "torch")
    one_by_one = np.concatenate([extractor(images[row : row + 1]) for row in range(5)])
    assert_same_pass(extractor(images)[:5], one_by_one)


def test_the_progress_bar_is_named(
    net: classifier.Classifier, images: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(net, images, "torch", label="audit")
    assert "audit: frozen backbone, by torch" in capsys.readouterr().out


def test_the_number_of_images_decides_the_engine(net: classifier.Classifier) -> None:
    assert Extractor(net, 37).engine == "torch"
    assert Extractor(net, 10**9).engine == "onnxruntime"
