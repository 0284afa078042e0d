"""Made test splits of both kinds: logits of known quality, and what calibration makes of them."""

from collections.abc import Callable

import numpy as np
import pytest

from transferline.evaluation.calibration import sigmoid, softmax
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel

CLASSES = ["nominal", "local", "global"]


def make_outcome(images: int = 120, classes: tuple[str, ...] = tuple(CLASSES), margin: float = 2.0) -> Multiclass:
    """`margin` is added to the right class's logit: 0 is guessing, 50 is never wrong."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, len(classes), images)
    logits = generator.normal(size=(images, len(classes)))
    logits[np.arange(images), labels] += margin
    return Multiclass(labels, softmax(logits), softmax(logits, 0.8), 0.8, list(classes))


@pytest.fixture(scope="session")
def outcome_of() -> Callable[..., Multiclass]:
    return make_outcome


@pytest.fixture(scope="session")
def outcome() -> Multiclass:
    return make_outcome()


def make_labelled(images: int = 120, labels: tuple[str, ...] = ("cat", "dog", "fox", "owl"), margin: float = 2.5):
    """Each label on about a third of the images, none on some; `margin` separates those that have it."""
    generator = np.random.default_rng(3)
    members = (generator.random((images, len(labels))) < 0.35).astype(np.int64)
    logits = generator.normal(size=members.shape) + margin * (members - 0.5)
    thresholds = np.linspace(0.4, 0.6, len(labels)).round(2)
    return Multilabel(members, sigmoid(logits), sigmoid(logits, 0.8), 0.8, list(labels), thresholds)


@pytest.fixture(scope="session")
def labelled_of() -> Callable[..., Multilabel]:
    return make_labelled


@pytest.fixture(scope="session")
def labelled() -> Multilabel:
    return make_labelled()
