"""`timm/<name>`: cut by timm's own metadata, or refused with the reason."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.unit.model import menu
from transferline.errors import UserError
from transferline.model import any_timm, backbones

MODELS = {
    "test_resnet": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "resnet10t": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "mobilenetv3_small_050": ("stem", *(f"blocks.{number}" for number in range(6))),
    "test_efficientnet": ("stem", *(f"blocks.{number}" for number in range(5)), "conv_head"),
    "test_convnext": ("stem", *(f"stages.{number}" for number in range(4))),
    "regnetx_002": ("stem", "s1", "s2", "s3", "s4"),
    "test_vit": ("stem", *(f"blocks.{number}" for number in range(6))),
    "test_vit4": ("stem", *(f"blocks.{number}" for number in range(9))),  # registers, and no class token
    "swin_tiny_patch4_window7_224": ("stem", *(f"layers.{number}" for number in range(4))),  # [B, h, w, D]
}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_compose_to_timms_own_features(name: str) -> None:
    spec = backbones.spec(f"timm/{name}")
    assert spec.blocks == MODELS[name]
    torch.manual_seed(0)
    side = 64 if spec.any_size else spec.input_size
    model = spec.create(input_size=side)
    menu.liven(model, torch.randn(8, 3, side, side))
    blocks = nn.Sequential(*spec.cut(model)).double()
    model, images = model.double(), torch.randn(2, 3, side, side).double()  # where no order of a sum shows
    with torch.inference_mode():
        features = blocks(images)
        expected = model.forward_features(images)
        if not spec.prefix_tokens and expected.ndim == 3:
            expected = expected[:, model.num_prefix_tokens :].transpose(1, 2).reshape(features.shape)
        elif getattr(model, "output_fmt", "") == "NHWC":
            expected = expected.permute(0, 3, 1, 2)
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
    assert features.shape[2 if spec.prefix_tokens else 1] == spec.feature_dim
    assert expected.std(0).max() > 1e-3 * expected.abs().max()


def test_what_a_model_expects_comes_from_its_own_configuration() -> None:
    spec, published = backbones.spec("timm/test_vit"), timm.get_pretrained_cfg("test_vit")
    assert (spec.mean, spec.std, spec.input_size) == (published.mean, published.std, published.input_size[-1])
    assert (spec.licence, spec.patch, spec.prefix_tokens, spec.depth) == ("apache-2.0", 16, 1, 7)
    assert spec.head == ("fc_norm", "head_drop", "head")


def test_what_is_frozen_of_timms_model_gets_no_gradient() -> None:
    net = menu.make("timm/test_resnet")
    net.train()
    net.freeze(2)
    nn.functional.cross_entropy(net(torch.rand(3, 3, 64, 64) * 255), torch.tensor([0, 1, 2])).backward()
    for number, block in enumerate(net.blocks):
        assert all((weight.grad is None) == (number < 2) for weight in block.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10x", r"timm has no model 'resnet10x'\n  did you mean 'resnet10"),
        ("zzz", r"timm has no model 'zzz'\n  `timm\.list_models\(\)` lists them all"),
        ("resnet18.nobody", r"timm/resnet18\.nobody cannot be cut into blocks: Invalid pretrained tag"),
        ("test_vit_relpos", r"cannot be cut into blocks: its features are no map of 96 channels.*\n  take another"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbones.spec(f"timm/{name}")


class Odd(nn.Module):
    """A model of timm's interface whose forward pass is more than its parts in order."""

    def __init__(self, glue: Callable[["Odd", Tensor], Tensor], stages: list[str]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.glue, self.num_features = glue, 4
        self.feature_info = [{"module": stage} for stage in stages]
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "url": ""}

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.glue(self, pixels)


GLUES: dict[str, tuple[Callable[[Odd, Tensor], Tensor], list[str], str]] = {
    "odd_sum": (
        lambda net, x: net.conv2(net.conv1(x)) + net.conv1(x).detach().mean(),
        ["conv1"],
        "calls 'conv1' more than once",
    ),
    "odd_glue": (lambda net, x: net.conv2(net.conv1(x).abs()), ["conv1", "conv2"], "in order are not its forward pass"),
    "odd_bare": (lambda net, x: net.conv2(net.conv1(x)), [], "has no feature metadata"),
    "odd_list": (lambda net, x: [net.conv2(net.conv1(x))], ["conv1"], "its features are a list, no tensor"),
    "odd_even": (lambda net, x: net.conv2(net.conv1(x)), ["conv1", "conv2"], ""),
}


@pytest.mark.parametrize("name", GLUES)
def test_a_forward_pass_that_does_more_than_call_its_parts_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    glue, stages, reason = GLUES[name]
    monkeypatch.setattr(timm, "list_models", lambda: [name])
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Odd(glue, stages))
    any_timm.spec.cache_clear()
    torch.manual_seed(0)

    def cut() -> int:
        spec = backbones.spec(f"timm/{name}")
        return len(spec.cut(spec.create()))

    if not reason:
        assert cut() == 2
        return
    with pytest.raises(UserError, match=rf"timm/{name} cannot be cut into blocks: .*{reason}"):
        cut()
