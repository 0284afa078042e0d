"""mixup and CutMix: images of a batch mixed with others of it, and their targets alike."""

import math

import numpy as np
import torch
from torch import Tensor

from transferline.fitting import Fit

_STREAM = 1  # keeps these draws apart from those of the order of images, which have the same seed and epoch


class Mixing:
    """Mixes a batch by mixup (Zhang et al. 2018, arXiv 1710.09412) or CutMix (Yun et al. 2019, arXiv 1905.04899).

    Where both are on, each batch is mixed by one of them, drawn evenly. All draws are a function of seed, epoch and
    step alone.

    Args:
        config: the two alphas of Beta(alpha, alpha); 0: off.
        seed: of the draws.
    """

    def __init__(self, config: Fit, seed: int) -> None:
        alphas = {"mixup": config.mixup, "cutmix": config.cutmix}
        self.alphas = {name: alpha for name, alpha in alphas.items() if alpha > 0}
        self.seed = seed

    def __call__(self, images: Tensor, targets: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images float [B, 3, S, S] and targets float [B, C], on any device; as they are where nothing is on."""
        if not self.alphas:
            return images, targets
        rng = np.random.default_rng((self.seed, epoch, step, _STREAM))
        kind = list(self.alphas)[int(rng.integers(len(self.alphas)))]
        share = float(rng.beta(self.alphas[kind], self.alphas[kind]))
        partners = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        if kind == "mixup":
            images = torch.lerp(images[partners], images, share)
        else:
            images, share = _paste(images, images[partners], share, rng)
        return images, torch.lerp(targets[partners], targets, share)


def _paste(images: Tensor, others: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A box of about 1 - `share` of the area, at a random place, cut out of the others; the share that is left."""
    height, width = images.shape[2:]
    centre, half = rng.random(2) * (height, width), math.sqrt(1 - share) / 2
    top, bottom = (round(min(max(centre[0] + side * height, 0), height)) for side in (-half, half))
    left, right = (round(min(max(centre[1] + side * width, 0), width)) for side in (-half, half))
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
