"""Cross-entropy and focal, of one label and of several: by torch's own functions, and by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from transferline.artifacts import Arrays
from transferline.fitting import Fit
from transferline.training.losses import Loss, class_weights

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [4.0, 0.0, 1.0], [-1.0, 1.0, 1.5]])
LABELS = torch.tensor([0, 1, 1, 2])
SEVERAL = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
WEIGHTS = torch.tensor([1.0, 3.0, 0.5])


def loss_of(weights: Tensor | None = None, several: bool = False, **config: Any) -> Loss:
    return Loss(Fit.model_validate(config), weights, several)


def arrays(labels: list[Any]) -> Arrays:
    images = np.zeros((len(labels), 1, 2, 2, 3), np.uint8)
    return Arrays(images, np.array(labels, np.int64), [str(row) for row in range(len(labels))], ["a", "b", "c"])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("config", [{}, {"loss": "focal", "focal_gamma": 0.0}], ids=["cross_entropy", "gamma 0"])
def test_of_one_label_it_is_the_cross_entropy_of_torch(
    config: dict[str, Any], smoothing: float, weights: Tensor | None
) -> None:
    loss = loss_of(weights, **config)
    expected = functional.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, loss.targets(LABELS, 3), smoothing), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighed"])
@pytest.mark.parametrize("config", [{}, {"loss": "focal", "focal_gamma": 0.0}], ids=["cross_entropy", "gamma 0"])
def test_of_several_labels_it_is_the_binary_cross_entropy_of_torch(
    config: dict[str, Any], weights: Tensor | None
) -> None:
    loss = loss_of(weights, several=True, **config)
    expected = functional.binary_cross_entropy_with_logits(LOGITS, SEVERAL.float(), pos_weight=weights)
    torch.testing.assert_close(loss(LOGITS, loss.targets(SEVERAL, 3)), expected)
    smoothed = functional.binary_cross_entropy_with_logits(LOGITS, SEVERAL * 0.8 + 0.1, pos_weight=weights)
    torch.testing.assert_close(loss(LOGITS, loss.targets(SEVERAL, 3), 0.2), smoothed)


def test_focal_is_its_formula() -> None:
    loss = loss_of(loss="focal", focal_gamma=1.5)
    given = LOGITS.softmax(1)[torch.arange(4), LABELS]
    expected = (-((1 - given) ** 1.5) * given.log()).mean()
    torch.testing.assert_close(loss(LOGITS, loss.targets(LABELS, 3)), expected)
    weighed = loss_of(WEIGHTS, loss="focal", focal_gamma=1.5)
    shares = WEIGHTS[LABELS] / WEIGHTS[LABELS].sum()
    expected = (-shares * (1 - given) ** 1.5 * given.log()).sum()
    torch.testing.assert_close(weighed(LOGITS, loss.targets(LABELS, 3)), expected)


def test_focal_of_sigmoids_is_its_formula() -> None:
    loss = loss_of(several=True, loss="focal")
    given = torch.where(SEVERAL == 1, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    expected = (-((1 - given) ** 2) * given.log()).mean()
    torch.testing.assert_close(loss(LOGITS, loss.targets(SEVERAL, 3)), expected)


def test_mixed_targets_are_mixed_losses() -> None:
    """Both are linear in the target."""
    for several, labels in ((False, LABELS), (True, SEVERAL)):
        loss = loss_of(several=several, loss="focal")
        one = loss.targets(labels, 3)
        other = one[[1, 2, 3, 0]]
        mixed = loss(LOGITS, 0.3 * one + 0.7 * other, 0.1)
        torch.testing.assert_close(mixed, 0.3 * loss(LOGITS, one, 0.1) + 0.7 * loss(LOGITS, other, 0.1))


@pytest.mark.parametrize("several", [False, True])
def test_a_certain_answer_has_a_finite_gradient(several: bool) -> None:
    """Below gamma 1, the slope of a power at 0 is infinite."""
    loss = loss_of(several=several, loss="focal", focal_gamma=0.5)
    logits = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    loss(logits, torch.tensor([[1.0, 0.0, 0.0]])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_inverse_to_counts() -> None:
    config = Fit(class_weights="balanced")
    weights = class_weights(arrays([0, 1, 2, 0, 0, 0]), config)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
    several = class_weights(arrays([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]), config)
    assert several is not None
    torch.testing.assert_close(several, torch.tensor([3.0, 0.25, 4.0]))  # no image without b, none with c
    assert class_weights(arrays([0, 1, 2]), Fit()) is None


def test_weights_move_with_the_loss() -> None:
    loss = loss_of(WEIGHTS)
    assert dict(loss.named_buffers())["weights"] is WEIGHTS
    assert loss.state_dict() == {}
    assert math.isfinite(float(loss(LOGITS, loss.targets(LABELS, 3))))
