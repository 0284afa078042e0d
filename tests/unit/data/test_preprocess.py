"""The one definition of preprocessing: whole grey levels of an antialiased resize, squashed, cropped or padded."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from transferline.data.preprocess import PAD_VALUE, Fit, Resize

FITS: tuple[Fit, ...] = ("squash", "crop", "pad")


def _images(height: int, width: int, count: int = 2) -> Tensor:
    """uint8 [count, height, width, 3] of noise."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def _interpolated(images: Tensor, size: int) -> Tensor:
    """float64 [B, 3, size, size]: torch's own antialiased bilinear resize, not rounded."""
    pixels = images.permute(0, 3, 1, 2).double()
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(50, 70), (70, 50), (5, 9), (32, 32)])
def test_every_size_becomes_whole_grey_levels(fit: Fit, height: int, width: int) -> None:
    resized = Resize(32, fit)(_images(height, width))
    assert (resized.shape, resized.dtype) == ((2, 3, 32, 32), torch.float32)
    assert torch.equal(resized, resized.to(torch.uint8).float())


@pytest.mark.parametrize("size", [32, 75])  # one band of rows, and several, the last one not full
@pytest.mark.parametrize(("height", "width"), [(640, 80), (20, 15), (1, 1), (33, 1000)])
def test_squash_is_torchs_antialiased_resize_rounded(height: int, width: int, size: int) -> None:
    images = _images(height, width)
    assert (Resize(size)(images) - _interpolated(images, size)).abs().max() <= 0.5 + 1e-9


def test_the_sums_are_exact() -> None:
    images = _images(23, 17, count=1)
    exact = [[_exact(images[0, :, :, 0].tolist(), row, column, 12) for column in range(12)] for row in range(12)]
    assert Resize(12)(images)[0, 0].tolist() == [[round(level) for level in line] for line in exact]


def _exact(image: list[list[int]], row: int, column: int, size: int) -> Fraction:
    """One pixel of the resized image, in fractions; `round` takes halves to even, as IEEE does."""
    rows, columns = _triangle(len(image), row, size), _triangle(len(image[0]), column, size)
    total = sum(rows) * sum(columns)
    products = (
        y * x * level for y, line in zip(rows, image, strict=True) for x, level in zip(columns, line, strict=True)
    )
    return sum(products, Fraction()) / total


def _triangle(length: int, output: int, size: int) -> list[Fraction]:
    """Weight of each input line, 1 at the middle of the output's share and 0 from one share (or line) away."""
    scale = Fraction(length, size)
    distances = [abs(Fraction(2 * line + 1, 2) - Fraction(2 * output + 1, 2) * scale) for line in range(length)]
    return [max(1 - distance / max(scale, 1), Fraction()) for distance in distances]


def test_antialiasing_matters_when_an_image_shrinks() -> None:
    images = _images(128, 128)
    aliased = functional.interpolate(images.permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", align_corners=False)
    assert (Resize(32)(images) - aliased).abs().max() > 10


@pytest.mark.parametrize("fit", FITS)
def test_an_image_of_the_right_size_is_left_as_it_is(fit: Fit) -> None:
    images = _images(32, 32)
    assert torch.equal(Resize(32, fit)(images), images.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("transposed", [False, True])
def test_crop_takes_the_central_square(transposed: bool) -> None:
    images = _images(32, 51)
    inside = images[:, :, 9:41]  # (51 - 32) // 2 on the left, the odd column on the right
    if transposed:
        images, inside = images.transpose(1, 2), inside.transpose(1, 2)
    assert torch.equal(Resize(32, "crop")(images), inside.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("transposed", [False, True])
def test_pad_centres_the_whole_image_on_mid_grey(transposed: bool) -> None:
    images = _images(32, 21)
    padded = torch.full((2, 32, 32, 3), float(PAD_VALUE))
    padded[:, :, 5:26] = images.float()  # (32 - 21) // 2 on the left
    if transposed:
        images, padded = images.transpose(1, 2), padded.transpose(1, 2)
    assert torch.equal(Resize(32, "pad")(images), padded.permute(0, 3, 1, 2))


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_stay_within_a_byte(level: int) -> None:
    images = torch.full((1, 100, 77, 3), level, dtype=torch.uint8)
    assert torch.equal(Resize(32)(images).unique(), torch.tensor([float(level)]))


@pytest.mark.parametrize("fit", FITS)
def test_an_image_does_not_depend_on_its_batch(fit: Fit) -> None:
    images = _images(45, 60, count=3)
    together = Resize(32, fit)(images)
    alone = torch.cat([Resize(32, fit)(image[None]) for image in images])
    assert torch.equal(together, alone)
