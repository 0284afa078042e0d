"""How the learning rate goes from step to step."""

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from transferline.fitting import Fit
from transferline.training.scores import MONITORS


def make_schedule(optimizer: Optimizer, config: Fit, steps: int) -> dict[str, Any] | None:
    """As Lightning takes it; None where the rate is constant.

    Args:
        steps: of the optimiser, in the whole training.
    """
    match config.schedule:
        case "onecycle":  # Smith and Topin 2017, arXiv 1708.07120
            peaks = [group["lr"] for group in optimizer.param_groups]
            # Both phases must have a length, however few the steps: OneCycleLR divides by it.
            rising = min(max(config.warmup, 1.5 / steps), 1 - 0.5 / steps)
            betas = isinstance(optimizer.defaults.get("betas"), tuple)  # what is named momentum stays as configured
            cycle = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=rising, cycle_momentum=betas)
            return {"scheduler": cycle, "interval": "step"}
        case "cosine":
            return {"scheduler": cosine(optimizer, steps, config.warmup), "interval": "step"}
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


def cosine(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up, then a half cosine to zero (Loshchilov and Hutter 2016, arXiv 1608.03983)."""
    rising = max(round(steps * warmup), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(steps - rising, 1)
        return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(progress, 1.0)))))

    return LambdaLR(optimizer, factor)
