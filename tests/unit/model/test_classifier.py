"""The classifier: freezing, normalisation, life on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.model import menu
from transferline.artifacts import ModelCard
from transferline.errors import UserError
from transferline.model import classifier
from transferline.model.engines import EVERY, Prefix
from transferline.sections import Head
from transferline.training.data import tap_columns


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return ModelCard("resnet18", ["a", "b"], 32, "squash", [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], dropout=0.1)


@pytest.fixture
def net(card: ModelCard) -> classifier.Classifier:
    return classifier.build(card, "none", seed=1)


def trainable(module: nn.Module) -> set[bool]:
    return {weight.requires_grad for weight in module.parameters()}


@pytest.mark.parametrize("depth", range(6))
def test_freezing_trains_exactly_what_lies_above(net: classifier.Classifier, depth: int) -> None:
    net.freeze(depth)
    assert [trainable(block) for block in net.blocks] == [{False}] * depth + [{True}] * (5 - depth)
    assert trainable(net.head) == {True}


def test_frozen_blocks_stay_in_eval_mode_when_told_to_train(net: classifier.Classifier) -> None:
    net.freeze(2)
    net.train()
    modes = [{module.training for module in block.modules()} for block in net.blocks]
    assert modes == [{False}] * 2 + [{True}] * 3


def modes(net: classifier.Classifier | classifier.Suffix) -> list[set[bool]]:
    return [{module.training for module in block.modules()} for block in net.blocks]


def test_a_suffix_counts_blocks_as_the_classifier_does_and_stays_frozen_when_told_to_train(
    net: classifier.Classifier,
) -> None:
    net.freeze(2)
    suffix = classifier.Suffix(net)
    assert (suffix.offset, suffix.freeze_depth, len(suffix.blocks)) == (2, 2, 3)
    suffix.freeze(4)
    suffix.train()
    assert modes(suffix) == [{False}] * 2 + [{True}]
    assert [trainable(block) for block in net.blocks] == [{False}] * 4 + [{True}]
    suffix.eval()
    assert modes(suffix) == [{False}] * 3
    suffix.freeze(2)
    assert modes(suffix.train()) == [{True}] * 3
    with pytest.raises(UserError, match=r"freeze_depth: 1 is out of range: .* 5 blocks\n.*nearest right value is 2"):
        suffix.freeze(1)


@pytest.mark.parametrize("kept", [False, True], ids=["classifier", "suffix"])
def test_frozen_statistics_stay_when_told_to_train_but_not_those_of_the_head(card: ModelCard, kept: bool) -> None:
    deep = replace(card, head=Head(hidden=(8,), norm="batch"))
    net = classifier.build(deep, "none", seed=1)
    net.frozen_statistics = True
    net.freeze(2)
    trained = classifier.Suffix(net) if kept else net
    trained.train()
    above = [module for block in net.blocks[2:] for module in block.modules()]
    norms = [module for module in above if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert {weight.requires_grad for norm in norms for weight in norm.parameters()} == {True}
    assert all(module.training for module in above if not isinstance(module, nn.BatchNorm2d))
    assert {module.training for module in net.head.modules()} == {True}


def test_rebuilt_with_another_head_it_is_seeded_and_keeps_the_backbone(
    net: classifier.Classifier, card: ModelCard
) -> None:
    heads = []
    other = replace(card, head=Head(pooling="flatten", hidden=(8,), activation="gelu"))
    for seed in (1, 1, 2):
        torch.manual_seed(len(heads))
        made = classifier.rebuild(net, other, seed)
        heads.append(made.head.linear.weight)
        assert (made.card, made.head.linear.in_features) == (other, 8)
        assert all(torch.equal(value, made.blocks.state_dict()[key]) for key, value in net.blocks.state_dict().items())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(heads[0], classifier.build(other, "none", 1).head.linear.weight)


def test_a_shallower_freeze_unfreezes_again(net: classifier.Classifier) -> None:
    net.freeze(5)
    net.freeze(1)
    assert [trainable(block) for block in net.blocks] == [{False}] + [{True}] * 4


@pytest.mark.parametrize(("depth", "nearest"), [(6, 5), (-1, 0)])
def test_a_depth_out_of_range_names_the_nearest(net: classifier.Classifier, depth: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"has 5 blocks\n.*nearest right value is {nearest}"):
        net.freeze(depth)


def test_pixels_are_normalised_with_the_card(net: classifier.Classifier) -> None:
    seen: list[torch.Tensor] = []
    net.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.eval()(torch.full((1, 3, 32, 32), 255.0))
    expected = [(1 - 0.5) / 0.2, (1 - 0.4) / 0.3, (1 - 0.3) / 0.4]
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(expected))


def test_the_head_depends_on_the_seed_alone(card: ModelCard) -> None:
    torch.manual_seed(99)
    first = classifier.build(card, "none", seed=3).state_dict()
    torch.manual_seed(7)
    again, other = classifier.build(card, "none", seed=3).state_dict(), classifier.build(card, "none", 4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])


def test_saving_and_loading_gives_the_same_logits_and_the_same_bytes(
    net: classifier.Classifier, card: ModelCard, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images.flags.writeable = False  # as a memory-mapped array
    before = classifier.predict_logits(net, images, batch_size=2)
    classifier.save(net, card, tmp_path / "one")
    loaded, loaded_card = classifier.load(tmp_path / "one")
    classifier.save(loaded, loaded_card, tmp_path / "two")
    np.testing.assert_array_equal(classifier.predict_logits(loaded, images, batch_size=2), before)
    assert loaded_card == card
    assert (tmp_path / "one" / classifier.WEIGHTS).read_bytes() == (tmp_path / "two" / classifier.WEIGHTS).read_bytes()


def test_truncated_weights_are_named(net: classifier.Classifier, card: ModelCard, tmp_path: Path) -> None:
    classifier.save(net, card, tmp_path)
    weights = tmp_path / classifier.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        classifier.load(tmp_path)


# --- a head that sees earlier blocks --------------------------------------------------------


@pytest.fixture(scope="module")
def lively() -> classifier.Classifier:
    return menu.make("small_cnn", 32)


def tapped(lively: classifier.Classifier, taps: list[int], **head: object) -> classifier.Classifier:
    """With a mean and a scale of its features, as after a probe."""
    card = replace(lively.card, taps=taps, head=Head.model_validate(head))
    made = classifier.rebuild(lively, card, 0).eval()
    generator = torch.Generator().manual_seed(2)
    width = made.head.mean.shape
    made.head.standardise(torch.rand(width, generator=generator), 10 * torch.rand(width, generator=generator) + 5)
    return made


def stored_images(count: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


@torch.no_grad()
def logits(net: classifier.Classifier) -> torch.Tensor:
    return net(stored_images().permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("head", [{}, {"hidden": [8]}, {"pooling": "max"}], ids=str)
@pytest.mark.parametrize("taps", [[1], [3], [1, 3], [1, 2, 3]], ids=str)
def test_a_suffix_at_every_depth_gives_the_logits_of_the_whole_classifier(
    lively: classifier.Classifier, taps: list[int], head: dict[str, object]
) -> None:
    net = tapped(lively, taps, **head)
    expected = logits(net)
    assert float(expected.std(0).min()) > 1e-3, "images are told apart"
    pixels = net.normalise(stored_images().permute(0, 3, 1, 2).float())
    for depth in range(5):
        net.freeze(depth)
        frozen = [number for number in taps if number <= depth]
        with torch.no_grad():
            every, left = (pixels, pixels) if depth == 0 else Prefix(net, (EVERY, depth))(stored_images())
            seen = every[:, tap_columns(net.tap_widths, frozen)] if frozen else None
            found = classifier.Suffix(net).eval()(left, seen)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_tap_counts(lively: classifier.Classifier) -> None:
    net = tapped(lively, [1, 3])
    before = logits(net)
    for start in (0, 32):  # the columns of block 1, and of block 3
        other = tapped(lively, [1, 3])
        other.load_state_dict(net.state_dict())
        with torch.no_grad():
            other.head.linear.weight[:, start : start + 32] += 1
        assert not torch.allclose(logits(other), before, atol=1e-3)


def test_taps_and_what_standardises_them_live_on_disk(lively: classifier.Classifier, tmp_path: Path) -> None:
    net = tapped(lively, [1, 3])
    classifier.save(net, net.card, tmp_path)
    loaded, card = classifier.load(tmp_path)
    assert (card.taps, loaded.head.taps, loaded.tap_widths) == ([1, 3], (1, 3), [32, 64, 128])
    assert card == net.card
    assert set(loaded.state_dict()) == set(net.state_dict())
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())
    assert torch.equal(logits(loaded), logits(net))


@pytest.mark.parametrize("depth", range(5))
def test_what_the_head_sees_is_frozen_as_ever(lively: classifier.Classifier, depth: int) -> None:
    net = tapped(lively, [1, 2, 3])
    net.freeze(depth)
    net.train()
    net(stored_images().permute(0, 3, 1, 2).float()).sum().backward()
    moved = [any(weight.grad is not None for weight in block.parameters()) for block in net.blocks]
    assert moved == [False] * depth + [True] * (4 - depth)
    assert modes(net) == [{False}] * depth + [{True}] * (4 - depth)
    assert trainable(net.head) == {True}
