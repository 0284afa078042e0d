"""Every row of the registry as a test's parameter, and classifiers whose weights hide no fault."""

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from transferline.artifacts import ModelCard
from transferline.model import backbones, classifier
from transferline.model.backbones import Spec

# Of each family, the one that is quickest to test: the default suite covers these, `pytest -m backbones` the others.
ONE_OF_EACH = {
    "VGG": "vgg11",
    "ResNet": "resnet18",
    "Inception": "googlenet",
    "Xception": "xception41",
    "EfficientNet-Lite": "efficientnet_lite0",
    "MobileNet": "mobilenet_v3_small",
    "SqueezeNet": "squeezenet1_1",
    "ShuffleNet": "shufflenet_v2_x1_0",
    "MnasNet": "mnasnet1_0",
    "EfficientNet": "efficientnet_b0",
    "ConvNeXt": "convnext_tiny",
    "RegNet": "regnet_y_400mf",
    "DenseNet": "densenet121",
    "ViT": "vit_small",
    "Swin": "swin_t",
    "from scratch": "mlp",
}


def rows(default: Collection[str] = tuple(ONE_OF_EACH.values())) -> list[Any]:
    """Every name; all but `default`, one of each family, are of the marker `backbones`."""
    return [pytest.param(name, marks=() if name in default else pytest.mark.backbones) for name in backbones.REGISTRY]


def small(spec: Spec, side: int = 64) -> int:
    """About the smallest side in pixels at which a network still shows what it does."""
    return -(-max(side, spec.min_size) // spec.patch) * spec.patch


def draw(model: nn.Module, seed: int = 1) -> None:
    """Draw what is 0 or 1 in a fresh network: norms' affine parameters, biases, tokens, scales of residual paths.

    A graph that leaves one of these out would give the same numbers without them.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if name == "weight" and (isinstance(module, norms) or weight.ndim == 1):
                nn.init.uniform_(weight, 0.7, 1.3, generator=generator)
            elif name.endswith("bias") or name in {"class_token", "cls_token", "pos_embed", "pos_embedding"}:
                nn.init.uniform_(weight, -0.2, 0.2, generator=generator)
            elif name in {"layer_scale", "gamma"}:
                nn.init.uniform_(weight, 0.2, 0.5, generator=generator)


def statistics(module: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))


def liven(model: nn.Module, inputs: torch.Tensor, seed: int = 0) -> None:
    """Weights as after a training, in eval mode.

    BatchNorm's statistics are drawn around those of `inputs`: activations then neither die nor explode.
    """
    draw(model.eval())
    generator = torch.Generator().manual_seed(seed)
    for layer in statistics(model):  # these alone: paths that stochastic depth drops would be missing in the statistics
        layer.momentum = None  # the mean of all batches, of which there is one
        layer.train()
    with torch.no_grad():
        model(inputs)
    for layer in statistics(model.eval()):
        layer.momentum = 0.1
        layer.running_var += 0.1 * layer.running_var.mean()  # a channel that is nearly constant would be blown up
        spread = layer.running_var.sqrt()
        layer.running_mean += 0.2 * spread * torch.randn(spread.shape, generator=generator)
        layer.running_var *= torch.empty_like(spread).uniform_(0.8, 1.2, generator=generator)


def make(name: str, side: int | None = None, seed: int = 0) -> classifier.Classifier:
    """A lively classifier of three classes; `side` of its input in pixels: see `small`."""
    spec = backbones.spec(name)
    side = side or small(spec)
    card = ModelCard(name, ["a", "b", "c"], side, "squash", list(spec.mean), list(spec.std), dropout=0.0)
    net = classifier.build(card, "none", seed)
    generator = torch.Generator().manual_seed(seed)
    liven(net, torch.randint(0, 256, (8, 3, side, side), generator=generator).float())
    return net
