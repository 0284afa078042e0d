"""What the policy audit judges by: frozen features of clean images, and of the same images transformed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transferline.data.images import Pixels
from transferline.policy import Transform

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Transformed:
    """The validation images after one transform.

    Attributes:
        features: float32 [M, P].
        example: the first of the images, uint8 [S, S, 3].
    """

    transform: Transform
    features: Features
    example: Pixels


@dataclass(frozen=True)
class Evidence:
    """Pooled features of N training and M validation images.

    Attributes:
        backbone: what gave the features.
        train: float32 [N, P].
        train_labels: int64 [N]; where images have several labels, int64 [N, C] of 0 and 1.
        clean: float32 [M, P].
        labels: as `train_labels`, of the validation images.
        classes: number of them.
        example: the first validation image, uint8 [S, S, 3].
        transformed: one for each transform.
    """

    backbone: str
    train: Features
    train_labels: npt.NDArray[np.int64]
    clean: Features
    labels: npt.NDArray[np.int64]
    classes: int
    example: Pixels
    transformed: list[Transformed]
