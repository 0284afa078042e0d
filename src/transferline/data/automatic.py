"""TrivialAugment and RandAugment: operations of one list, drawn, at a strength.

Operations and their strongest forms are those of the papers, as torchvision carries them: of TrivialAugment the
"wide" list. Here every draw is from the generator that is passed, and what is moved has mirrored borders and turns
about the centre, as in the rest of the policy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from transferline import policy
from transferline.data import geometry
from transferline.policy import MAX_MAGNITUDE, Operation

_WHITE = 255
_BITS = 8


@dataclass(frozen=True)
class _Strongest:
    """What an operation does at full strength.

    Attributes:
        shear: tangent of the angle.
        pixels: shift.
        degrees: turn, either way.
        change: of the factor 1 of brightness, colour, contrast and sharpness, either way.
        bits: of 8 that posterizing takes away.
    """

    shear: float
    pixels: float
    degrees: float
    change: float
    bits: int


_WIDE = _Strongest(shear=0.99, pixels=32, degrees=135, change=0.99, bits=6)


def trivial(transform: policy.TrivialAugment, image: Tensor, rng: np.random.Generator) -> Tensor:
    """One operation at a strength drawn from all (Müller and Hutter 2021, arXiv 2103.10158).

    Args:
        image: float32 [3, S, S] in 0..1.
    """
    strength = rng.integers(MAX_MAGNITUDE + 1) / MAX_MAGNITUDE
    return _drawn(transform, image, strength, _WIDE, rng)


def rand(transform: policy.RandAugment, image: Tensor, rng: np.random.Generator) -> Tensor:
    """`n` operations in a row, all of one strength (Cubuk et al. 2020, arXiv 1909.13719).

    Args:
        image: float32 [3, S, S] in 0..1.
    """
    pixels = 150 / 331 * image.shape[-1]  # 150 of the 331 pixels that its searches were run at
    strongest = _Strongest(shear=0.3, pixels=pixels, degrees=30, change=0.9, bits=4)
    for _ in range(transform.n):
        image = _drawn(transform, image, transform.magnitude / MAX_MAGNITUDE, strongest, rng)
    return image


def _drawn(
    transform: policy.TrivialAugment | policy.RandAugment,
    image: Tensor,
    strength: float,
    strongest: _Strongest,
    rng: np.random.Generator,
) -> Tensor:
    """An operation that may be drawn, at a strength in 0..1, either way."""
    operation = transform.operations[rng.integers(len(transform.operations))]
    sign = float(rng.choice((-1, 1)))
    return operate(operation, image, strength, sign, strongest)


def operate(operation: Operation, image: Tensor, strength: float, sign: float, strongest: _Strongest) -> Tensor:
    """`image`, float32 [3, S, S] in 0..1, after one operation; `sign` matters to those that go either way."""
    if operation in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        return _moved(operation, image, sign * strength, strongest)
    if operation in _ADJUSTED:
        return _ADJUSTED[operation](image, 1 + strongest.change * sign * strength)
    return _recoloured(operation, image, strength, strongest.bits)


_ADJUSTED: dict[Operation, Callable[[Tensor, float], Tensor]] = {
    "brightness": v2.adjust_brightness,
    "color": v2.adjust_saturation,
    "contrast": v2.adjust_contrast,
    "sharpness": v2.adjust_sharpness,
}


def _moved(operation: Operation, image: Tensor, signed: float, strongest: _Strongest) -> Tensor:
    half, along_x = image.shape[-1] / 2, operation.endswith("_x")
    if operation == "rotate":
        return geometry.warp(image, half * math.sqrt(2), degrees=strongest.degrees * signed)
    if operation.startswith("translate"):
        pixels = strongest.pixels * signed
        return geometry.warp(image, half + abs(pixels), shift=(pixels, 0.0) if along_x else (0.0, pixels))
    tangent = strongest.shear * signed
    angle = math.degrees(math.atan(tangent))
    return geometry.warp(image, half * (1 + abs(tangent)), shear=(angle, 0.0) if along_x else (0.0, angle))


def _recoloured(operation: Operation, image: Tensor, strength: float, bits: int) -> Tensor:
    match operation:
        case "posterize":
            return v2.posterize(_grey_levels(image), _BITS - round(bits * strength)) / _WHITE
        case "solarize":
            return v2.solarize(image, 1 - strength)
        case "auto_contrast":
            return v2.autocontrast(image)
        case "equalize":
            return v2.equalize(_grey_levels(image)) / _WHITE
    assert operation == "identity", f"{operation} is not implemented"
    return image


def _grey_levels(image: Tensor) -> Tensor:
    """uint8: what counts bits or levels is defined on whole ones."""
    return (image * _WHITE).round().clamp(0, _WHITE).to(torch.uint8)
