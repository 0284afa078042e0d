"""Every registered backbone: its blocks are the library's forward pass, frozen and trained one by one."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.unit.model import menu
from transferline.errors import UserError
from transferline.model import backbones, classifier, engines
from transferline.model.classifier import Classifier, Suffix
from transferline.model.weights import load_weights


@pytest.fixture(scope="module", params=menu.rows())
def net(request: pytest.FixtureRequest) -> Classifier:
    return menu.make(request.param)


def pixels(net: Classifier, count: int = 3, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = net.card.input_size
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).float()


def pooled_by_library(model: nn.Module, spec: backbones.Spec, images: torch.Tensor) -> torch.Tensor:
    """The library's own forward pass up to what its classification layer is given."""
    if spec.library == "scratch":
        return model(images).mean((2, 3))
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    elif spec.family == "SqueezeNet":  # its classification layer is a convolution in front of the pooling
        model.classifier = model.classifier[3]
    elif spec.family == "VGG":
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Identity()
    else:
        model.set_submodule(spec.head[0], nn.Identity())
    return model(images).flatten(1)


@pytest.mark.parametrize("name", menu.rows())
def test_blocks_compose_to_the_library_forward(name: str) -> None:
    spec = backbones.spec(name)
    torch.manual_seed(0)
    side = menu.small(spec)
    model = spec.create(input_size=side)
    menu.liven(model, torch.randn(8, 3, side, side))
    model, images = model.double(), torch.randn(2, 3, side, side).double()  # where no order of a sum shows
    with torch.inference_mode():
        features = nn.Sequential(*spec.cut(model))(images)
        pooled = features[:, 0] if spec.prefix_tokens else features.mean((2, 3))
        expected = pooled_by_library(model, spec, images)
    assert expected.std(0).max() > 1e-3 * expected.abs().max(), "the network tells images apart"
    torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-9)
    assert pooled.shape == (2, spec.feature_dim)
    assert features.ndim == (3 if spec.prefix_tokens else 4)


def test_the_spec_says_what_the_network_is(net: Classifier) -> None:
    spec = backbones.spec(net.card.backbone)
    assert len(net.blocks) == spec.depth == len(set(spec.blocks))
    assert net.head.linear.in_features == spec.feature_dim
    assert all(isinstance(block, nn.Module) and sum(1 for _ in block.parameters()) for block in net.blocks)


def test_freezing_to_each_depth_trains_exactly_what_lies_above(net: Classifier) -> None:
    net = deepcopy(net)
    net.train()
    for depth in range(len(net.blocks) + 1):
        net.freeze(depth)
        for number, block in enumerate(net.blocks):
            trained = number >= depth
            assert all(weight.requires_grad == trained for weight in block.parameters()), (depth, number)
            assert all(module.training == trained for module in block.modules()), (depth, number)
        assert all(weight.requires_grad for weight in net.head.parameters())
    net.freeze(0)
    assert all(module.training for module in net.modules())


def test_a_training_step_moves_all_that_is_not_frozen_and_nothing_else(net: Classifier) -> None:
    net = deepcopy(net).train()
    depth = len(net.blocks) // 2
    net.freeze(depth)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW([weight for weight in net.parameters() if weight.requires_grad], 1e-4, weight_decay=0)
    nn.functional.cross_entropy(net(pixels(net)), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    frozen = tuple(f"blocks.{number}." for number in range(depth))
    constant = ("num_batches_tracked", "relative_position_index", "head.mean", "head.scale")
    for key, value in net.state_dict().items():
        moved = not torch.equal(value, before[key])
        if key.startswith(frozen):
            assert not moved, key
        elif not key.endswith(constant):
            assert moved, key


def test_state_survives_saving_and_loading(net: Classifier, tmp_path: Path) -> None:
    classifier.save(net, net.card, tmp_path)
    loaded, card = classifier.load(tmp_path)
    assert card == net.card
    with torch.inference_mode():
        assert torch.equal(loaded(pixels(net)), net(pixels(net)))


def test_what_a_prefix_gives_leads_to_the_same_logits(net: Classifier) -> None:
    """At any rank of the boundary: maps, maps of Swin, tokens, vectors."""
    net = deepcopy(net)
    stored = pixels(net).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    with torch.inference_mode():
        expected = net(pixels(net)).numpy()
    tolerance = engines.TOLERANCE * float(np.abs(expected).max())
    depths = sorted({1, len(net.blocks) // 2, len(net.blocks) - 1, len(net.blocks)})
    whole = engines.in_torch(engines.Prefix(net, depths))(stored)
    for depth, boundary in zip(depths, whole, strict=True):
        net.freeze(depth)
        with torch.inference_mode():
            logits = Suffix(net).eval()(torch.from_numpy(boundary))
        np.testing.assert_allclose(logits.numpy(), expected, atol=tolerance, err_msg=f"depth {depth}")
    (again,) = engines.in_torch(engines.Prefix(net, (len(net.blocks),), start=depths[0]))(whole[0])
    np.testing.assert_allclose(again, whole[-1], atol=engines.TOLERANCE * float(np.abs(whole[-1]).max()))


@pytest.mark.parametrize("name", menu.rows())
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_the_library_own_model_loads(name: str, suffix: str, tmp_path: Path) -> None:
    """With its classification layers and auxiliary heads."""
    spec = backbones.spec(name)
    torch.manual_seed(5)
    whole = {**spec.options, "aux_logits": True} if "aux_logits" in spec.options else spec.options
    published = replace(spec, options=whole).create()
    menu.draw(published)
    path = tmp_path / f"weights{suffix}"
    save_file(published.state_dict(), path) if suffix == ".safetensors" else torch.save(published.state_dict(), path)
    model = spec.create()
    load_weights(model, spec, str(path))
    path.unlink()
    side = menu.small(spec) if not spec.size_option else spec.input_size
    images = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        found, expected = (nn.Sequential(*spec.cut(each.eval()))(images) for each in (model, published))
    assert torch.equal(found, expected)


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"resnet5' is not known\n.*did you mean 'resnet50'"):
        backbones.spec("resnet5")


@pytest.mark.parametrize(
    ("name", "side", "why", "right"),
    [
        ("inception_v3", 64, "takes 75 pixels at least", 75),
        ("efficientnet_v2_s", 32, "takes 33 pixels at least", 33),
        ("vit_b_16", 100, "takes multiples of 16 pixels", 96),
        ("dinov2_small", 32, "takes multiples of 14 pixels", 42),
        ("dinov2_small", 518, "", 518),
        ("vgg16", 32, "", 32),
    ],
)
def test_a_side_that_the_backbone_cannot_take_is_refused(name: str, side: int, why: str, right: int) -> None:
    if side == right:
        assert backbones.input_size(name, side) == side
        return
    with pytest.raises(UserError) as caught:
        backbones.input_size(name, side)
    assert caught.value.what == f"params.yaml: model.input_size: {side} does not fit: {name} {why}"
    assert caught.value.fix == f"the nearest right value is {right}"
    assert backbones.input_size(name, right) == right
    assert backbones.input_size(name) == backbones.spec(name).input_size


def test_stochastic_depth_falls_to_the_first_block_and_is_refused_where_there_is_none() -> None:
    def rates(name: str, rate: float | None) -> list[float]:
        model = backbones.spec(name).create(rate)
        return [layer.p if hasattr(layer, "p") else layer.drop_prob for layer in model.modules() if is_path(layer)]

    def is_path(layer: nn.Module) -> bool:
        return type(layer).__name__ in {"StochasticDepth", "DropPath"}

    from torchvision.models import efficientnet_b0

    by_library = [layer.p for layer in efficientnet_b0(stochastic_depth_prob=0.4).modules() if is_path(layer)]
    assert rates("efficientnet_b0", 0.4) == pytest.approx(by_library)
    assert rates("efficientnet_b0", 0.0) == [0.0] * len(by_library)
    assert max(rates("swin_t", 0.3)) == pytest.approx(0.3)
    assert max(rates("swin_t", None)) == pytest.approx(0.2)
    assert max(rates("vit_small", 0.3)) == pytest.approx(0.3)
    with pytest.raises(UserError, match=r"model\.stochastic_depth: resnet18 has no stochastic depth"):
        backbones.spec("resnet18").create(0.1)


def test_inception_normalises_as_the_library_does_with_its_published_weights() -> None:
    """torchvision turns ImageNet's normalisation into this one inside of its model."""
    from torchvision.models import inception_v3

    spec = backbones.spec("inception_v3")
    library = inception_v3(weights=None, transform_input=True, init_weights=False)
    grey = torch.rand(2, 3, 8, 8)
    normalised = (grey - torch.tensor(backbones.IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(
        backbones.IMAGENET_STD
    ).view(1, 3, 1, 1)
    ours = (grey - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    torch.testing.assert_close(library._transform_input(normalised), ours, rtol=1e-5, atol=1e-5)
