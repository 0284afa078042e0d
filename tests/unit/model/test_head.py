"""The head: every pooling by hand, hidden layers, and the exported form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from transferline import sections
from transferline.artifacts import ModelCard
from transferline.errors import UserError
from transferline.model import classifier
from transferline.model.head import ACTIVATIONS, Head, Pool, Pooling

MAP = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))


def tokens(prefix: int) -> Tensor:
    """The same features as patches, behind other tokens."""
    patches = MAP.flatten(2).transpose(1, 2)
    return torch.cat([torch.full((2, prefix, 5), 100.0), patches], 1)


EXPECTED: dict[Pooling, Tensor] = {
    "average": MAP.mean((2, 3)),
    "max": MAP.amax((2, 3)),
    "average_max": torch.cat([MAP.mean((2, 3)), MAP.amax((2, 3))], 1),
    "generalised_mean": (MAP.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3),
    "flatten": MAP.flatten(1),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_pooling_is_the_same_of_a_map_and_of_its_patches_whatever_tokens_stand_before(kind: Pooling) -> None:
    torch.testing.assert_close(Pool(kind)(MAP), EXPECTED[kind])
    torch.testing.assert_close(Pool(kind)(tokens(0)), EXPECTED[kind])
    torch.testing.assert_close(Pool(kind, 2)(tokens(2)), EXPECTED[kind])


def test_the_class_token_is_the_first() -> None:
    assert torch.equal(Pool("token", 2)(tokens(2)), torch.full((2, 5), 100.0))


def test_a_linear_head_is_a_linear_layer_on_pooled_features() -> None:
    head = Head(Pool("average"), 5, sections.Head(), classes=3, dropout=0.5).eval()
    torch.testing.assert_close(head(MAP), head.linear(MAP.mean((2, 3))))
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]


def test_features_are_standardised_from_when_it_is_said() -> None:
    head = Head(Pool("average"), 5, sections.Head(), classes=3, dropout=0.5).eval()
    pooled, mean, scale = MAP.mean((2, 3)), torch.arange(5.0), torch.arange(1.0, 6.0)
    torch.testing.assert_close(head.classify(pooled), head.linear(pooled))
    head.standardise(mean, scale)
    torch.testing.assert_close(head.classify(pooled), head.linear((pooled - mean) / scale))
    torch.testing.assert_close(head(MAP), head.classify(pooled))
    assert {"mean", "scale"} <= set(head.state_dict())
    assert {"mean", "scale"}.isdisjoint(name for name, _ in head.named_parameters())


def test_features_are_standardised_in_front_of_hidden_layers() -> None:
    head = Head(Pool("average"), 5, sections.Head(hidden=(7,)), classes=3, dropout=0.0).eval()
    pooled = MAP.mean((2, 3))
    expected = head.classify(pooled)
    head.standardise(torch.full((5,), 3.0), torch.full((5,), 2.0))
    torch.testing.assert_close(head.classify(2 * pooled + 3), expected)


def test_taps_are_pooled_as_mean_and_maximum_whatever_the_head_pools_itself() -> None:
    head = Head(Pool("token", 2), 5, sections.Head(), classes=3, dropout=0.0, taps=[1, 3])
    assert head.taps == (1, 3)
    torch.testing.assert_close(head.tap(tokens(2)), EXPECTED["average_max"])
    torch.testing.assert_close(head.tap(MAP), EXPECTED["average_max"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_hidden_layers_are_linear_norm_activation(activation: str, norm: str) -> None:
    config = sections.Head.model_validate({"hidden": [7, 6], "activation": activation, "norm": norm})
    head = Head(Pool("average"), 5, config, classes=3, dropout=0.5).eval()
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(5, 7), (7, 6), (6, 3)]
    expected = MAP.mean((2, 3))
    for layer in linear[:2]:
        expected = layer(expected)
        expected = nn.functional.layer_norm(expected, expected.shape[1:]) if norm == "layer" else expected
        expected = expected / (1 + 1e-5) ** 0.5 if norm == "batch" else expected  # fresh statistics: mean 0, variance 1
        expected = getattr(nn.functional, activation)(expected)
    torch.testing.assert_close(head(MAP), linear[2](expected))


def test_dropout_is_set_of_every_layer() -> None:
    head = Head(Pool("average"), 5, sections.Head(hidden=(7,)), classes=3, dropout=0.5)
    head.set_dropout(0.25)
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]


def card(**head: object) -> ModelCard:
    config = sections.Head.model_validate(head)
    return ModelCard("resnet18", ["a", "b"], 64, "squash", [0.5] * 3, [0.2] * 3, 0.0, config)


@pytest.mark.parametrize(("pooling", "width"), [("auto", 512), ("average_max", 1024), ("flatten", 512 * 2 * 2)])
def test_the_width_is_what_the_pooling_gives(pooling: str, width: int) -> None:
    net = classifier.build(card(pooling=pooling), "none", seed=0).eval()
    assert net.head.linear.in_features == width
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize(("taps", "width"), [([1], 128), ([2, 4], 640), ([1, 2, 3, 4], 1024)])
def test_the_width_is_that_of_the_taps_as_well(taps: list[int], width: int) -> None:
    net = classifier.build(replace(card(), taps=taps), "none", seed=0)
    assert net.tap_widths == [2 * 64, 2 * 64, 2 * 128, 2 * 256]
    assert net.head.linear.in_features == 512 + width
    assert len(net.head.mean) == net.head.linear.in_features


def test_a_class_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"token: resnet18 has no class token\n.*auto, average, max"):
        classifier.build(card(pooling="token"), "none", seed=0)
