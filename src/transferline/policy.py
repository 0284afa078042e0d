"""The augmentation policy of params.yaml: named transforms with ranges, each one switchable.

Ranges are [low, high], drawn uniformly; `p` is the probability that the transform is applied to
a view; `enabled: false` switches it off without deleting it.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], Strict(False)]
MAX_MAGNITUDE = 30  # strengths of TrivialAugment and RandAugment are whole numbers from 0 on


class Section(BaseModel):
    """A part of params.yaml: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Transform(Section):
    enabled: bool = Field(True, description="false switches the transform off")
    p: Probability = Field(1.0, description="probability that it is applied to a view")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key, value in self:
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise ValueError(
                    f"{key}: [{value[0]:g}, {value[1]:g}] is upside down; [{value[1]:g}, {value[0]:g}] would do"
                )
        return self


def _within(low: float, high: float, values: Range, key: str) -> None:
    for value in values:
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            raise ValueError(f"{key}: {value:g} is outside {low:g}..{high:g}; the nearest right value is {nearest:g}")


class Rotation(_Transform):
    name: Literal["rotation"]
    degrees: Range = Field((-10, 10), description="angle, counter-clockwise; borders are mirrored")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(-180, 180, self.degrees, "degrees")
        return self


class QuarterTurns(_Transform):
    name: Literal["quarter_turns"]


class Shift(_Transform):
    name: Literal["shift"]
    fraction: Probability = Field(0.1, description="largest shift as a share of the side, either way")


class Scale(_Transform):
    name: Literal["scale"]
    factor: Range = Field((0.9, 1.1), description="zoom about the centre")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0.1, 10, self.factor, "factor")
        return self


class RandomResizedCrop(_Transform):
    name: Literal["random_resized_crop"]
    area: Range = Field((0.6, 1.0), description="area of the crop as a share of the image's")
    ratio: Range = Field((0.75, 1.3333), description="width of the crop by its height")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0.01, 1, self.area, "area")
        _within(0.1, 10, self.ratio, "ratio")
        return self


class HorizontalFlip(_Transform):
    name: Literal["horizontal_flip"]
    p: Probability = Field(0.5, description="probability that it is applied to a view")


class VerticalFlip(_Transform):
    name: Literal["vertical_flip"]
    p: Probability = Field(0.5, description="probability that it is applied to a view")


class _Factor(_Transform):
    factor: Range = Field((0.8, 1.2), description="1 leaves the image as it is")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0, 10, self.factor, "factor")
        return self


class Brightness(_Factor):
    name: Literal["brightness"]


class Contrast(_Factor):
    name: Literal["contrast"]


class Saturation(_Factor):
    name: Literal["saturation"]


class Hue(_Transform):
    name: Literal["hue"]
    turn: Range = Field((-0.05, 0.05), description="shift of the hue in turns, within -0.5..0.5")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(-0.5, 0.5, self.turn, "turn")
        return self


class GaussianNoise(_Transform):
    name: Literal["gaussian_noise"]
    sigma: Range = Field((0, 10), description="standard deviation in grey levels of 255")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0, 255, self.sigma, "sigma")
        return self


class Blur(_Transform):
    name: Literal["blur"]
    sigma: Range = Field((0.1, 1.5), description="of the Gaussian kernel, in pixels")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0.01, 20, self.sigma, "sigma")
        return self


class RandomErasing(_Transform):
    name: Literal["random_erasing"]
    area: Range = Field((0.02, 0.1), description="area of the erased box as a share of the image's")
    ratio: Range = Field((0.3, 3.3), description="width of the box by its height")
    p: Probability = Field(0.25, description="probability that it is applied to a view")

    @model_validator(mode="after")
    def _range(self) -> Self:
        _within(0.001, 0.9, self.area, "area")
        _within(0.1, 10, self.ratio, "ratio")
        return self


Operation = Literal[
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class _Automatic(_Transform):
    """A published policy in one: it draws from the list of operations."""

    exclude: Annotated[tuple[Operation, ...], Strict(False)] = Field(
        (), description="operations that are never drawn, as [rotate, shear_x, shear_y]"
    )

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Those that may be drawn."""
        return tuple(operation for operation in OPERATIONS if operation not in self.exclude)

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if not set(self.operations) - {"identity"}:
            raise ValueError("exclude: no operation is left to draw; name fewer, or set enabled: false")
        return self


class TrivialAugment(_Automatic):
    name: Literal["trivial_augment"]


class RandAugment(_Automatic):
    name: Literal["rand_augment"]
    n: int = Field(2, ge=1, le=len(OPERATIONS), description="operations in a row, each drawn anew")
    magnitude: int = Field(9, ge=0, le=MAX_MAGNITUDE, description="strength of every operation")


Transform = Annotated[
    Rotation
    | QuarterTurns
    | Shift
    | Scale
    | RandomResizedCrop
    | HorizontalFlip
    | VerticalFlip
    | Brightness
    | Contrast
    | Saturation
    | Hue
    | GaussianNoise
    | Blur
    | RandomErasing
    | TrivialAugment
    | RandAugment,
    Field(discriminator="name"),
]
