"""How the learning rate goes from step to step."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from transferline.fitting import Fit
from transferline.training.scores import MONITORS


def make_schedule(optimizer: Optimizer, config: Fit, steps: int) -> dict[str, Any] | None:
    """As Lightning takes it; None where the rate is constant.

    Args:
        steps: of the optimiser, in the whole training.
    """
    match config.schedule:
        case "onecycle" | "cosine":
            return {"scheduler": rise_and_fall(optimizer, config.schedule, steps, config.warmup), "interval": "step"}
        case "step":
            return {"scheduler": StepLR(optimizer, config.step_epochs, config.step_gamma)}
        case "plateau":
            monitor, mode = MONITORS[config.monitor]
            plateau = ReduceLROnPlateau(
                optimizer, mode=mode, factor=config.step_gamma, patience=config.plateau_patience
            )
            return {"scheduler": plateau, "monitor": monitor}
        case "constant":
            return None


def rise_and_fall(optimizer: Optimizer, schedule: str, steps: int, warmup: float) -> LambdaLR:
    """Every group's rate rises to its own, and falls as a half cosine that would be zero one step after the last.

    `onecycle` rises as a half cosine from a 25th of the rate (Smith and Topin 2017, arXiv 1708.07120), `cosine`
    linearly (Loshchilov and Hutter 2016, arXiv 1608.03983). One step is always at the peak: a training of one step
    runs at the full rate.

    Args:
        warmup: share of the steps up to and including the peak. Where it is less than one step, there is no rise.
    """
    peak = max(round(steps * warmup), 1) - 1

    def factor(step: int) -> float:
        if step > peak:
            return half_cosine(1.0, 0.0, min((step - peak) / (steps - peak), 1.0))
        if schedule == "cosine":
            return (step + 1) / (peak + 1)
        return half_cosine(1 / 25, 1.0, step / peak) if peak else 1.0

    return LambdaLR(optimizer, factor)


def half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
