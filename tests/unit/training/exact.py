"""Training in double precision, where neither the order of a sum nor the processor shows.

An epsilon is 2e-16. BatchNorm over a few images and dozens of steps magnify it, by far less than the 1e7 that separate
it from `CLOSE`; a wrong order of images, scale of a gradient or statistic shows in the first digits.
"""

from typing import TypeVar

from torch import Tensor

from transferline.fitting import Fit
from transferline.model.classifier import Classifier

CLOSE = 1e-9  # relative, of a loss or a weight in double precision
METRIC = 1e-6  # relative: metrics are summed in float32, of an epsilon of 1.2e-7, over some batches

Config = TypeVar("Config", bound=Fit)


def exactly(config: Config) -> Config:
    """The same in double precision, which users are not offered."""
    return config.model_copy(update={"precision": "64-true"})


def round_boundary(net: Classifier, depth: int) -> None:
    """What leaves the frozen blocks is rounded to float32, so that keeping it in float32 loses nothing."""
    boundary = net.head.pool if depth == len(net.blocks) else net.blocks[depth - 1]
    boundary.register_forward_hook(_rounded)


def _rounded(_module: object, _given: object, left: Tensor) -> Tensor:
    return left.float().double()
