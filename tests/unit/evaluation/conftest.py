"""A made test split: logits of known quality, and what calibration makes of them."""

from collections.abc import Callable

import numpy as np
import pytest

from transferline.evaluation.calibration import softmax
from transferline.evaluation.outcome import Outcome

CLASSES = ["nominal", "local", "global"]


def make_outcome(images: int = 120, classes: tuple[str, ...] = tuple(CLASSES), margin: float = 2.0) -> Outcome:
    """`margin` is added to the right class's logit: 0 is guessing, 50 is never wrong."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, len(classes), images)
    logits = generator.normal(size=(images, len(classes)))
    logits[np.arange(images), labels] += margin
    return Outcome(labels, softmax(logits), softmax(logits, 0.8), 0.8, list(classes))


@pytest.fixture(scope="session")
def outcome_of() -> Callable[..., Outcome]:
    return make_outcome


@pytest.fixture(scope="session")
def outcome() -> Outcome:
    return make_outcome()
