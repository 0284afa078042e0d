"""The augmentation policy carried out: each named transform as a function of an image and a generator.

Images are float32 [3, S, S] in 0..1 at the network's input size; only the random resized crop works
on the decoded image, before the resize. Every parameter is drawn from the generator that is passed,
so that the result depends on nothing else.
"""

import math
from collections.abc import Sequence
from functools import reduce, singledispatch
from itertools import groupby
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from transferline import policy
from transferline.data import automatic, geometry
from transferline.data.images import Pixels
from transferline.data.preprocess import Resize
from transferline.policy import Transform

_WHITE = 255


def views(pixels: Pixels, resize: Resize, transforms: Sequence[Transform], seeds: Sequence[Sequence[int]]) -> Tensor:
    """The clean view of a decoded image, then one augmented view per seed.

    Args:
        pixels: uint8 [H, W, 3].
        transforms: applied in this order where switched on, save that crops come first.
        seeds: entropy of each augmented view's generator.

    Returns:
        uint8 [1 + len(seeds), S, S, 3]; the clean view is exactly `resize`'s result.
    """
    image = torch.from_numpy(pixels)
    clean = resize(image[None])[0]
    switched_on = [transform for transform in transforms if transform.enabled]
    augmented = [_view(image, clean, resize, switched_on, np.random.default_rng(seed)) for seed in seeds]
    return torch.stack([clean, *augmented]).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def drawn(images: Tensor, transforms: Sequence[Transform], seeds: Sequence[Sequence[int]]) -> Tensor:
    """A new view of each stored image, on the device it is on.

    Args:
        images: uint8 [B, S, S, 3], resized already; a random resized crop is cut from this size.
        transforms: as in `views`.
        seeds: entropy of each image's generator.

    Returns:
        uint8 [B, S, S, 3].
    """
    resize = Resize(images.shape[1])
    switched_on = [transform for transform in transforms if transform.enabled]
    fresh = [
        _view(image, image.permute(2, 0, 1).float(), resize, switched_on, np.random.default_rng(seed))
        for image, seed in zip(images, seeds, strict=True)
    ]
    return torch.stack(fresh).to(torch.uint8).permute(0, 2, 3, 1)


def _view(
    image: Tensor, clean: Tensor, resize: Resize, transforms: Sequence[Transform], rng: np.random.Generator
) -> Tensor:
    """float32 [3, S, S] of whole grey levels in 0..255."""
    chosen = [transform for transform in transforms if rng.random() < transform.p]
    cropped = image
    for crop in chosen:
        if isinstance(crop, policy.RandomResizedCrop):
            cropped = _crop(cropped, crop, rng)
    view = (clean if cropped is image else resize(cropped[None])[0]) / _WHITE
    others = [transform for transform in chosen if not isinstance(transform, policy.RandomResizedCrop)]
    for affine, run in groupby(others, key=lambda transform: isinstance(transform, geometry.Affine)):
        if affine:
            view = geometry.move(view, cast("list[geometry.Affine]", list(run)), rng)
        else:
            view = reduce(lambda current, transform: apply(transform, current, rng), run, view)
    return (view * _WHITE).round().clamp(0, _WHITE)


def _crop(image: Tensor, transform: policy.RandomResizedCrop, rng: np.random.Generator) -> Tensor:
    """A box of the decoded image [H, W, 3]."""
    box = geometry.draw_box(image.shape[0], image.shape[1], transform.area, transform.ratio, rng)
    if box is None:
        return image
    top, left, height, width = box
    return image[top : top + height, left : left + width]


@singledispatch
def apply(transform: Transform, image: Tensor, rng: np.random.Generator) -> Tensor:
    """`image`, float32 [3, S, S] in 0..1, transformed with parameters drawn from `rng`."""
    raise AssertionError(f"{type(transform).__name__} is not implemented")


# --- whole turns and flips -------------------------------------------------------------------------------


@apply.register
def _(transform: policy.QuarterTurns, image: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.rot90(image, int(rng.integers(1, 4)), dims=(-2, -1))


@apply.register
def _(transform: policy.HorizontalFlip, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.horizontal_flip(image)


@apply.register
def _(transform: policy.VerticalFlip, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.vertical_flip(image)


# --- colour ---------------------------------------------------------------------------------


@apply.register
def _(transform: policy.Brightness, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.adjust_brightness(image, geometry.draw(transform.factor, rng))


@apply.register
def _(transform: policy.Contrast, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.adjust_contrast(image, geometry.draw(transform.factor, rng))


@apply.register
def _(transform: policy.Saturation, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.adjust_saturation(image, geometry.draw(transform.factor, rng))


@apply.register
def _(transform: policy.Hue, image: Tensor, rng: np.random.Generator) -> Tensor:
    return v2.adjust_hue(image, geometry.draw(transform.turn, rng))


# --- noise ----------------------------------------------------------------------------------


@apply.register
def _(transform: policy.GaussianNoise, image: Tensor, rng: np.random.Generator) -> Tensor:
    sigma = geometry.draw(transform.sigma, rng) / _WHITE
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return (image + sigma * noise.to(image.device)).clamp(0, 1)


@apply.register
def _(transform: policy.Blur, image: Tensor, rng: np.random.Generator) -> Tensor:
    sigma = geometry.draw(transform.sigma, rng)
    radius = min(math.ceil(3 * sigma), image.shape[-1] - 1)  # the border is mirrored, so no wider than the image
    return v2.gaussian_blur(image, [2 * radius + 1] * 2, [sigma, sigma])


@apply.register
def _(transform: policy.RandomErasing, image: Tensor, rng: np.random.Generator) -> Tensor:
    """A box of random pixels, which Zhong et al. (2020, "Random Erasing Data Augmentation") found best."""
    box = geometry.draw_box(image.shape[-2], image.shape[-1], transform.area, transform.ratio, rng)
    if box is None:
        return image
    top, left, height, width = box
    values = torch.from_numpy(rng.random((image.shape[0], height, width), dtype=np.float32))
    return v2.erase(image, top, left, height, width, values.to(image.device))


# --- whole policies --------------------------------------------------------------------------


@apply.register
def _(transform: policy.TrivialAugment, image: Tensor, rng: np.random.Generator) -> Tensor:
    return automatic.trivial(transform, image, rng)


@apply.register
def _(transform: policy.RandAugment, image: Tensor, rng: np.random.Generator) -> Tensor:
    return automatic.rand(transform, image, rng)
