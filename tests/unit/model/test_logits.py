"""The logits that evaluate judges: which model is run on which split, and which logits are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transferline import artifacts
from transferline.artifacts import HEAD, Arrays, ModelCard, SplitName
from transferline.errors import UserError
from transferline.model import classifier, logits
from transferline.model.classifier import Classifier

CARD = ModelCard("small_cnn", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, dropout=0.0)


@pytest.fixture(scope="module")
def final() -> Classifier:
    return classifier.build(CARD, "none", seed=1).eval()


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """Another classifier, in models/head/ of an empty project."""
    monkeypatch.chdir(tmp_path)
    made = classifier.build(CARD, "none", seed=2).eval()
    classifier.save(made, CARD, HEAD)
    return made


@pytest.fixture(scope="module")
def splits() -> dict[SplitName, Arrays]:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32, 3), dtype=np.uint8)
    test = Arrays(images, np.arange(5) % 3, [f"{row}.png" for row in range(5)], CARD.classes)
    return {"val": replace(test, images=images[:4], labels=test.labels[:4]), "test": test}


def expected(net: Classifier, arrays: Arrays) -> np.ndarray:
    return classifier.predict_logits(net, arrays.images[:, 0], 16)


def test_validation_logits_are_those_that_finetune_held_out(final: Classifier, splits) -> None:
    held_out = np.arange(12, dtype=np.float32).reshape(4, 3)
    artifacts.write_held_out(held_out)
    found = logits.of_final(final, splits, 16)
    np.testing.assert_array_equal(found["val"], held_out)
    np.testing.assert_array_equal(found["test"], expected(final, splits["test"]))


def test_without_held_out_logits_finetune_is_to_run_again(final: Classifier, splits) -> None:
    with pytest.raises(UserError, match=r"held_out\.npy"):
        logits.of_final(final, splits, 16)


def test_the_probe_is_run_on_test_alone(probe: Classifier, splits) -> None:
    found = logits.of_probe(splits, 16)
    assert list(found) == ["test"]
    np.testing.assert_array_equal(found["test"], expected(probe, splits["test"]))


def test_in_multi_label_data_the_probe_is_run_on_validation_too(probe: Classifier, splits) -> None:
    several = {name: replace(one, labels=np.ones((len(one.labels), 3), np.int64)) for name, one in splits.items()}
    found = logits.of_probe(several, 16)
    np.testing.assert_array_equal(found["val"], expected(probe, splits["val"]))
    np.testing.assert_array_equal(found["test"], expected(probe, splits["test"]))
