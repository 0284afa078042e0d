"""What the policy audit judges by: frozen features of clean images, and of some of them transformed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transferline.data.images import Pixels
from transferline.policy import Transform

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Transformed:
    """Some of the images after one transform.

    Attributes:
        features: float32 [M, P].
        example: the first of the images, uint8 [S, S, 3].
    """

    transform: Transform
    features: Features
    example: Pixels


@dataclass(frozen=True)
class Evidence:
    """Pooled features of N clean images of train and validation, and of M of them after each transform.

    Attributes:
        backbone: what gave the features.
        clean: float32 [N, P].
        labels: int64 [N]; where images have several labels, int64 [N, C] of 0 and 1.
        groups: int64 [N], of (near) duplicates.
        rows: int64 [M], which of the images are transformed.
        classes: number of them.
        example: the first of the images that are transformed, before that, uint8 [S, S, 3].
        transformed: one for each transform.
    """

    backbone: str
    clean: Features
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    classes: int
    example: Pixels
    transformed: list[Transformed]
