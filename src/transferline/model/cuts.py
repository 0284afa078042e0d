"""How a library's model becomes ordered blocks: running them in order is its forward pass up to its pooling.

Each is a function of the model, or gives one. torch is imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from transferline.model.specs import Cut


def parts(*groups: str) -> Cut:
    """One block per group of space-separated names of submodules, run in order."""

    def cut(model: nn.Module) -> list[nn.Module]:
        from torch import nn

        return [nn.Sequential(*map(model.get_submodule, group.split())) for group in groups]

    return cut


def layers(name: str) -> Cut:
    """The layers of the container of that name, one block each."""

    def cut(model: nn.Module) -> list[nn.Module]:
        return list(model.get_submodule(name).children())

    return cut


def chain(*cuts: Cut) -> Cut:
    """The blocks of all of `cuts`."""

    def cut(model: nn.Module) -> list[nn.Module]:
        return [block for each in cuts for block in each(model)]

    return cut


def ending(cut: Cut, end: Callable[[nn.Module], list[nn.Module]]) -> Cut:
    """As `cut`, but that the last block goes on with what `end` gives of the model."""

    def longer(model: nn.Module) -> list[nn.Module]:
        from torch import nn

        *blocks, last = cut(model)
        return [*blocks, nn.Sequential(last, *end(model))]

    return longer


def vgg(model: nn.Module) -> list[nn.Module]:
    """Simonyan and Zisserman 2014 (arXiv 1409.1556): the five groups that end in a max pooling."""
    from torch import nn

    blocks: list[list[nn.Module]] = [[]]
    for layer in model.get_submodule("features").children():
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
    return [nn.Sequential(*block) for block in blocks if block]


def convnext(model: nn.Module) -> list[nn.Module]:
    """Liu et al. 2022 (arXiv 2201.03545): stem and four stages, each but the first with its downsampling.

    Its LayerNorm stands behind the pooling, and does not commute with it. So both belong to the last block, whose map
    is a single place, [B, D, 1, 1]: all poolings of a head leave that as it is.
    """
    stages = parts("features.0", "features.1", *(f"features.{down} features.{down + 1}" for down in (2, 4, 6)))
    return ending(stages, lambda net: [net.get_submodule("avgpool"), net.get_submodule("classifier.0")])(model)


def densenet(model: nn.Module) -> list[nn.Module]:
    """Huang et al. 2016 (arXiv 1608.06993): stem and dense blocks, each but the last with its transition.

    The last ends in the norm and the ReLU that torchvision has in front of its pooling.
    """
    from torch import nn

    stem = " ".join(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0"))
    dense = [f"features.denseblock{number} features.transition{number}" for number in (1, 2, 3)]
    return ending(
        parts(stem, *dense, "features.denseblock4"), lambda net: [net.get_submodule("features.norm5"), nn.ReLU()]
    )(model)


def swin(model: nn.Module) -> list[nn.Module]:
    """Liu et al. 2021 (arXiv 2103.14030): stem and four stages, each but the first with its merging of patches.

    Inside, maps are [B, h, w, D]; the last block ends in the final norm and the library's own permutation.
    """
    stages = parts("features.0", "features.1", *(f"features.{merge} features.{merge + 1}" for merge in (2, 4, 6)))
    return ending(stages, lambda net: [net.get_submodule("norm"), net.get_submodule("permute")])(model)


def vision_transformer(model: nn.Module) -> list[nn.Module]:
    """Dosovitskiy et al. 2020 (arXiv 2010.11929), torchvision's: stem and layers, the last with the final norm."""
    from transferline.model.pieces import VisionStem

    stem_and_layers = chain(lambda net: [VisionStem(net)], layers("encoder.layers"))
    return ending(stem_and_layers, lambda net: [net.get_submodule("encoder.ln")])(model)


def timm_vision_transformer(model: nn.Module) -> list[nn.Module]:
    """As `vision_transformer`, of timm's."""
    from transferline.model.pieces import TimmVisionStem

    stem_and_blocks = chain(lambda net: [TimmVisionStem(net)], layers("blocks"))
    return ending(stem_and_blocks, lambda net: [net.get_submodule("norm")])(model)
