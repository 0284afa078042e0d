"""Geometry of the views: boxes, and turns, shifts and zooms with mirrored borders."""

import cmath
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from transferline import policy
from transferline.policy import Range

Affine = policy.Rotation | policy.Shift | policy.Scale

_BOX_TRIES = 10  # boxes drawn before the whole image is taken, as in torchvision's RandomResizedCrop


def move(image: Tensor, transforms: Sequence[Affine], rng: np.random.Generator) -> Tensor:
    """Affine transforms in a row, applied as one: each resampling would blur details of a few pixels further.

    A similarity about the centre is z -> factor * z + offset, for pixels as complex numbers whose
    imaginary axis points down. Borders are mirrored.

    Args:
        image: float32 [3, S, S].
    """
    side = image.shape[-1]
    factor, offset = 1 + 0j, 0j
    for transform in transforms:
        step_factor, step_offset = _similarity(transform, side, rng)
        factor, offset = step_factor * factor, step_factor * offset + step_offset
    corners = [complex(right, down) * side / 2 for right in (-1, 1) for down in (-1, 1)]
    sources = [(corner - offset) / factor for corner in corners]
    reach = max(max(abs(source.real), abs(source.imag)) for source in sources)
    degrees = math.degrees(cmath.phase(factor))
    return warp(image, reach, degrees=degrees, shift=(offset.real, offset.imag), scale=abs(factor))


def warp(
    image: Tensor,
    reach: float,
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """`image`, float32 [3, S, S], turned, shifted, zoomed and sheared about its centre; borders are mirrored.

    Args:
        reach: how far from the centre, along an axis, pixels are taken from.
        degrees: clockwise.
        shift: to the right and down, in pixels.
        shear: angles along x and y in degrees.
    """
    side = image.shape[-1]
    wide = _mirrored(image, math.ceil(reach - side / 2) + 1)
    moved = v2.affine(wide, degrees, list(shift), scale, list(shear), InterpolationMode.BILINEAR)
    return v2.center_crop(moved, [side, side])


def _similarity(transform: Affine, side: int, rng: np.random.Generator) -> tuple[complex, complex]:
    """(factor, offset in pixels), drawn."""
    match transform:
        case policy.Rotation():
            return cmath.rect(1, -math.radians(draw(transform.degrees, rng))), 0j
        case policy.Scale():
            return complex(draw(transform.factor, rng)), 0j
        case policy.Shift():
            right, down = rng.uniform(-transform.fraction, transform.fraction, size=2) * side
            return 1 + 0j, complex(right, down)


def _mirrored(image: Tensor, margin: int) -> Tensor:
    """`image` with `margin` more pixels on every side."""
    while margin > 0:  # a mirror shows one image less its border at a time
        step = min(margin, image.shape[-1] - 1)
        image = v2.pad(image, [step], padding_mode="reflect")
        margin -= step
    return image


def draw(bounds: Range, rng: np.random.Generator) -> float:
    """A number from [low, high], uniformly."""
    return float(rng.uniform(*bounds))


def draw_box(
    height: int, width: int, area: Range, ratio: Range, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a box within the image, its ratio drawn log-uniformly; None where none fits."""
    for _ in range(_BOX_TRIES):
        pixels = height * width * draw(area, rng)
        shape = math.exp(draw((math.log(ratio[0]), math.log(ratio[1])), rng))
        tall, wide = max(1, round(math.sqrt(pixels / shape))), max(1, round(math.sqrt(pixels * shape)))
        if tall <= height and wide <= width:
            top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
            return int(top), int(left), tall, wide
    return None
