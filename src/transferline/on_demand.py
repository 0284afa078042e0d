"""The sections of what stands beside the line and runs when it is asked for: comparing backbones, the rate test."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from transferline.policy import Section
from transferline.tuning import MAX_LR


class Compare(Section):
    """`transferline compare-backbones`, and the stage of that name in compare/dvc.yaml; not part of the line."""

    backbones: Annotated[tuple[str, ...], Strict(False)] = Field(
        ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), min_length=1, description="names compared"
    )
    weights: Literal["pretrained", "none"] = Field("pretrained", description="of every backbone, as model.weights")
    folds: int = Field(5, ge=2, le=50, description="of the linear probe's cross-validation, on train alone")
    max_images: int = Field(2000, ge=10, description="training images taken at most, the same share of every class")
    latency_repeats: int = Field(
        20, ge=3, le=10_000, description="timed runs of the ONNX model, of which the fastest counts"
    )

    @field_validator("backbones")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"'{twice[0]}' is named twice; name it once")
        return names


class LrFind(Section):
    """`transferline lr-find`; batch size and freeze depth are those of tune.start, all else is as in finetune."""

    min_lr: float = Field(1e-6, gt=0, le=MAX_LR, description="learning rate of the first step")
    max_lr: float = Field(1.0, gt=0, le=MAX_LR, description="learning rate of the last step")
    steps: int = Field(100, ge=20, le=10_000, description="optimiser steps, at rates that grow by the same factor")
    smoothing: float = Field(
        0.05, gt=0, le=0.5, description="width of the kernel that smooths the losses, as a share of the steps"
    )
    diverged: float = Field(4.0, gt=1, description="stop where the smoothed loss is this many times its minimum")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_lr < 10 * self.min_lr:
            raise ValueError(
                f"max_lr ({self.max_lr:g}) is not even 10 times min_lr ({self.min_lr:g}); 1e-6 to 1 is usual"
            )
        return self
