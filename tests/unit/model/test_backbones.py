"""Every registered backbone: its blocks in order are the library's own forward pass."""

import pytest
import torch
from torch import nn

from transferline.errors import UserError
from transferline.model import backbones

NAMES = sorted(backbones.REGISTRY)


def pooled_by_library(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The library's own forward pass up to its pooled features."""
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    elif hasattr(model, "fc"):
        model.fc = nn.Identity()
    else:
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Identity()
    return model(pixels)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_compose_to_the_library_forward(name: str) -> None:
    spec = backbones.spec(name)
    torch.manual_seed(0)
    model = spec.create().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # fresh statistics would hide a block that was left out
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = nn.Sequential(*spec.cut(model))(pixels)
        torch.testing.assert_close(features.mean((2, 3)), pooled_by_library(model, pixels), rtol=1e-5, atol=1e-5)
    assert features.shape[1] == spec.feature_dim
    assert len(spec.cut(model)) == spec.depth


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"resnet5' is not known\n.*did you mean 'resnet50'"):
        backbones.spec("resnet5")
