"""Optimiser groups, penalties, schedules."""

import math

import pytest
import torch
from torch.optim import SGD

from transferline.artifacts import ModelCard
from transferline.model import classifier
from transferline.sections import Finetune, Fit
from transferline.training.module import Trainee, cosine, make_optimizer

CARD = ModelCard("mobilenet_v3_small", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, dropout=0.0)


@pytest.fixture
def net() -> classifier.Classifier:
    return classifier.build(CARD, "none", seed=0)


def test_head_and_backbone_have_rates_of_their_own(net: classifier.Classifier) -> None:
    net.freeze(4)
    groups = make_optimizer(net, Finetune(backbone_lr_factor=0.25), lr=0.4).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [("head", 0.4), ("backbone", 0.1)]
    trained = {id(weight) for group in groups for weight in group["params"]}
    assert trained == {id(weight) for weight in net.parameters() if weight.requires_grad}


def test_a_frozen_backbone_has_no_group(net: classifier.Classifier) -> None:
    net.freeze(len(net.blocks))
    assert [group["name"] for group in make_optimizer(net, Fit(), lr=0.1).param_groups] == ["head"]


@pytest.mark.parametrize(
    ("nesterov", "momentum", "expected"), [(True, 0.9, True), (True, 0.0, False), (False, 0.9, False)]
)
def test_sgd_takes_momentum_and_nesterov(
    net: classifier.Classifier, nesterov: bool, momentum: float, expected: bool
) -> None:
    optimizer = make_optimizer(net, Fit(optimizer="sgd", nesterov=nesterov, momentum=momentum), lr=0.1)
    assert isinstance(optimizer, SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (expected, momentum)


def test_penalties_count_trained_weights_but_no_biases(net: classifier.Classifier) -> None:
    net.freeze(len(net.blocks))
    weight = net.head.linear.weight.detach()
    for config, expected in (
        (Fit(l1=0.1), 0.1 * weight.abs().sum()),
        (Fit(l2=0.1), 0.05 * weight.square().sum()),
        (Fit(), torch.tensor(0.0)),
    ):
        penalty = torch.as_tensor(Trainee(net, config, 0.1, None).penalty())
        torch.testing.assert_close(penalty.detach(), expected)


def test_class_weights_weigh_the_loss(net: classifier.Classifier) -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    logits[0, 0] = 5.0
    even = Trainee(net, Fit(), 0.1, None).cross_entropy(logits, labels, 0.0)
    heavy = Trainee(net, Fit(), 0.1, torch.tensor([1.0, 9.0, 1.0])).cross_entropy(logits, labels, 0.0)
    assert heavy > even


def test_cosine_rises_then_falls_to_zero() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = cosine(optimizer, steps=20, warmup=0.25), []
    for _ in range(21):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[12] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 15)))
    assert rates[20] == pytest.approx(0.0, abs=1e-9)
