"""Features of the training images: from the cache where it has them, and the same without."""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.model.passes import ROUNDING, assert_same_pass
from transferline.artifacts import HEAD, Arrays, ModelCard, SplitName
from transferline.model import activations, classifier, features, training_features
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier
from transferline.sections import Activations
from transferline.training import data

CARD = ModelCard("efficientnet_lite0", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, dropout=0.1)
HASHES = {"data/augmented/train": "digest", "data/augmented/val": "of val"}
SHARED = 4


@pytest.fixture(scope="module")
def frozen() -> Classifier:
    return classifier.build(CARD, "pretrained", seed=0).eval()


@pytest.fixture(scope="module")
def finetuned(frozen: Classifier) -> Classifier:
    """Another function from the block after SHARED on."""
    net = deepcopy(frozen)
    with torch.no_grad():
        for weight in net.blocks[SHARED:].parameters():
            weight.add_(0.01)
    return net


@pytest.fixture(scope="module")
def train() -> Arrays:
    images = np.random.default_rng(5).integers(0, 256, (19, 2, 32, 32, 3), dtype=np.uint8)
    return Arrays(images, np.arange(19) % 3, [f"{row}.png" for row in range(19)], CARD.classes)


def of(train: Arrays) -> dict[SplitName, Arrays]:
    """With a validation split of 5 of the images."""
    return {"train": train, "val": replace(train, images=train.images[:5, :1], labels=train.labels[:5])}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: Classifier) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    classifier.save(frozen, CARD, HEAD)


def expected(net: Classifier, train: Arrays) -> np.ndarray:
    return features.extract(net, train.images[:, 0], "torch")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_train_left_in_the_cache_is_gone_on_from(
    frozen: Classifier, finetuned: Classifier, train: Arrays, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    config = Activations(dtype=dtype, engine="torch")
    Cache(config).open(frozen, train, "digest", {SHARED, len(frozen.blocks)}, "train")
    before, after = expected(frozen, train), expected(finetuned, train)
    monkeypatch.setattr(training_features, "extract", lambda *_: pytest.fail("the images are run again"))
    found = training_features.both(finetuned, SHARED, of(train), HASHES, config)
    # One rounding of what is kept; the layers behind it hand on as much.
    tolerance = {"float32": ROUNDING, "float16": 8 * 2**-11, "bfloat16": 8 * 2**-8}[dtype]
    for one, other in zip(found, (before, after), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def test_without_a_cache_they_are_computed_from_the_clean_images(
    frozen: Classifier, finetuned: Classifier, train: Arrays
) -> None:
    found = training_features.both(finetuned, SHARED, of(train), HASHES, Activations(mode="off", engine="torch"))
    for one, net in zip(found, (frozen, finetuned), strict=True):
        assert_same_pass(one, expected(net, train))
    assert not list(Path().glob(".cache/activations/*/depth_*"))


def test_they_do_not_depend_on_what_is_in_the_cache(frozen: Classifier, finetuned: Classifier, train: Arrays) -> None:
    config = Activations(engine="torch")
    cold = training_features.both(finetuned, SHARED, of(train), HASHES, config)
    shutil.rmtree(".cache")
    Cache(config).open(frozen, train, "digest", range(1, len(frozen.blocks) + 1), "tune")
    warm = training_features.both(finetuned, SHARED, of(train), HASHES, config)
    for one, other in zip(cold, warm, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_engine_is_asked_for_as_training_asked(
    frozen: Classifier, finetuned: Classifier, train: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it may be another one, and so another key: all views would be run again."""
    asked = []
    monkeypatch.setattr(activations, "preferred", lambda _, count, __: asked.append(count) or "torch")
    both, config = of(train), Activations()
    data.embed(Cache(config), frozen, data.Splits(both["train"], both["val"], HASHES), {SHARED})
    training_features.both(finetuned, SHARED, both, HASHES, config)
    assert set(asked) == {19 * 2 + 5}


def test_other_images_or_weights_are_not_taken_for_these(
    frozen: Classifier, finetuned: Classifier, train: Arrays
) -> None:
    config = Activations(engine="torch", dtype="float32")
    depths = {SHARED, len(frozen.blocks)}
    Cache(config).open(frozen, train, "another digest", depths, "train")
    Cache(config).open(finetuned, train, "digest", depths, "train")
    before, after = training_features.both(finetuned, SHARED, of(train), HASHES, config)
    assert_same_pass(before, expected(frozen, train))
    assert_same_pass(after, expected(finetuned, train))


def test_a_backbone_that_was_not_finetuned_gives_one_kind(frozen: Classifier, train: Arrays) -> None:
    found = training_features.both(deepcopy(frozen), SHARED, of(train), HASHES, Activations(engine="torch"))
    assert len(found) == 1


def test_blocks_are_shared_as_far_as_weights_and_statistics_are(frozen: Classifier, finetuned: Classifier) -> None:
    assert training_features.shared_blocks(frozen, finetuned) == SHARED
    moved = deepcopy(frozen)
    next(buffer for name, buffer in moved.blocks[2].named_buffers() if "running_mean" in name).add_(1.0)
    assert training_features.shared_blocks(frozen, moved) == 2


def test_a_damaged_entry_is_not_used(frozen: Classifier, finetuned: Classifier, train: Arrays) -> None:
    config = Activations(engine="torch", dtype="float32")
    Cache(config).open(frozen, train, "digest", {SHARED, len(frozen.blocks)}, "train")
    for values in Path().glob(".cache/activations/*/depth_*/activations.npy"):
        values.write_bytes(values.read_bytes()[:-3] + b"???")
    for one, net in zip(
        training_features.both(finetuned, SHARED, of(train), HASHES, config), (frozen, finetuned), strict=True
    ):
        assert_same_pass(one, expected(net, train))
