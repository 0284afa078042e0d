"""Groups with rates and decay of their own, and every optimiser."""

from typing import Any

import pytest
import torch
from torch.optim import SGD, RMSprop

from transferline.artifacts import ModelCard
from transferline.errors import UserError
from transferline.fitting import OPTIMIZERS, Fit
from transferline.model import classifier
from transferline.training.optimisers import check_optimizer, decays, groups, make_optimizer

CARD = ModelCard("mobilenet_v3_small", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, dropout=0.0)
TIMM = ("timm/lion", "timm/nadamw", "timm/adafactor", "timm/lars", "timm/muon", "timm/sgdp")


@pytest.fixture(scope="module")
def net() -> classifier.Classifier:
    return classifier.build(CARD, "none", seed=0)


def rates(net: Any, **config: Any) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in groups(net, Fit.model_validate(config), lr=0.4)}


def test_head_and_backbone_have_rates_of_their_own(net: classifier.Classifier) -> None:
    net.freeze(10)
    found = rates(net, backbone_lr_factor=0.25)
    parts = [name for name in found if "norms and biases" not in name]
    assert parts == ["head", "block 13", "block 12", "block 11"]
    assert all(rate == (0.4 if name.startswith("head") else 0.1) for name, rate in found.items())


def test_every_weight_in_training_is_in_one_group(net: classifier.Classifier) -> None:
    net.freeze(4)
    held = [id(weight) for group in groups(net, Fit(), lr=0.1) for weight in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(weight) for weight in net.parameters() if weight.requires_grad}


def test_a_frozen_backbone_has_no_group(net: classifier.Classifier) -> None:
    net.freeze(len(net.blocks))
    assert list(rates(net)) == ["head", "head, norms and biases"]


def test_layer_decay_lowers_the_rate_block_by_block(net: classifier.Classifier) -> None:
    net.freeze(10)
    found = rates(net, backbone_lr_factor=0.5, layer_decay=0.1)
    expected = {"head": 0.4, "block 13": 0.02, "block 12": 0.002, "block 11": 0.0002}
    for name, rate in expected.items():
        assert found[name] == pytest.approx(rate)
        assert found[f"{name}, norms and biases"] == pytest.approx(rate)


def test_behind_what_is_kept_the_groups_are_the_same(net: classifier.Classifier) -> None:
    net.freeze(10)
    suffix = classifier.Suffix(net)
    assert rates(suffix, layer_decay=0.7) == rates(net, layer_decay=0.7)


def test_norms_and_biases_are_spared_weight_decay_unless_asked_for(net: classifier.Classifier) -> None:
    net.freeze(0)
    made = list(groups(net, Fit(weight_decay=0.3), lr=0.1))
    for group in made:
        assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] == 0.3}
    both = list(groups(net, Fit(weight_decay=0.3, decay_norms_and_biases=True), lr=0.1))
    assert {group["weight_decay"] for group in both} == {0.3}
    assert len(both) == 1 + len(net.blocks)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("attention.in_proj_weight", (3, 3), True),
        ("token_mixer.weight", (3, 3), True),
        ("norm.weight", (3,), False),
        ("fc.bias", (3,), False),
        ("attn.relative_position_bias_table", (9, 2), False),
        ("cls_token", (1, 1, 3), False),
        ("encoder.pos_embedding", (1, 5, 3), False),
    ],
)
def test_what_decays(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, torch.nn.Parameter(torch.zeros(shape))) == expected


@pytest.mark.parametrize("name", [*OPTIMIZERS, *TIMM])
def test_every_optimiser_steps_down_a_loss(name: str) -> None:
    head = torch.nn.Module()
    torch.manual_seed(0)
    head.net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 3))
    net: Any = torch.nn.Module()
    net.head, net.blocks, net.offset = head, torch.nn.ModuleList([torch.nn.Linear(4, 6)]), 0
    optimizer = make_optimizer(net, Fit(optimizer=name), lr=0.01)
    inputs, before = torch.randn(16, 4), [weight.detach().clone() for weight in net.parameters()]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head.net(net.blocks[0](inputs)), torch.arange(16) % 3)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("nesterov", "momentum", "expected"), [(True, 0.9, True), (True, 0.0, False), (False, 0.9, False)]
)
def test_sgd_takes_momentum_and_nesterov(
    net: classifier.Classifier, nesterov: bool, momentum: float, expected: bool
) -> None:
    optimizer = make_optimizer(net, Fit(optimizer="sgd", nesterov=nesterov, momentum=momentum), lr=0.1)
    assert isinstance(optimizer, SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (expected, momentum)


def test_rmsprop_and_those_of_timm_take_momentum(net: classifier.Classifier) -> None:
    optimizer = make_optimizer(net, Fit(optimizer="rmsprop", momentum=0.7), lr=0.1)
    assert isinstance(optimizer, RMSprop)
    assert optimizer.defaults["momentum"] == 0.7
    assert make_optimizer(net, Fit(optimizer="timm/lars", momentum=0.7), lr=0.1).defaults["momentum"] == 0.7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/lionn", "'timm/lionn' is not an optimizer of timm's that can be used\n  did you mean 'timm/lion'"),
        ("timm/adahessian", "can be used"),
        ("timm/fusedadam", "can be used"),
    ],
)
def test_what_timm_lacks_or_cannot_do_here_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_optimizer(name)
