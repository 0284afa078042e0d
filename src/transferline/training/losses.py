"""What training minimises: cross-entropy or focal, of one label an image or of several."""

import numpy as np
import torch
from torch import Tensor, nn

from transferline.artifacts import Arrays
from transferline.fitting import Fit

_SMALLEST = 1e-7  # of a probability that is raised to focal's power, whose slope at 0 may be infinite


class Loss(nn.Module):
    """Cross-entropy of a softmax, or, where images have several labels, of a sigmoid for each class.

    `focal` weighs each term by (1 - p) ** gamma, with p what the model gives it (Lin et al. 2017, arXiv 1708.02002):
    with gamma 0 it is the cross-entropy. Targets are shares of classes, as mixup makes them, and may be smoothed
    (Szegedy et al. 2015, arXiv 1512.00567), which suits both. Weights act as those of torch's cross_entropy, and of
    binary_cross_entropy_with_logits as its `pos_weight`.

    Args:
        config: which loss.
        weights: float32 [C], or None for equal ones.
        multilabel: whether images have several labels.
    """

    weights: Tensor | None

    def __init__(self, config: Fit, weights: Tensor | None, multilabel: bool = False) -> None:
        super().__init__()
        self.gamma = config.focal_gamma if config.loss == "focal" else 0.0
        self.multilabel = multilabel
        self.register_buffer("weights", weights, persistent=False)

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """Labels int64 [B], or [B, C] of 0 and 1 -> float32 [B, C]."""
        return (labels if self.multilabel else nn.functional.one_hot(labels, classes)).to(torch.get_default_dtype())

    def forward(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The mean over a batch.

        Args:
            logits: float [B, C].
            targets: float32 [B, C] in 0..1.
            smoothing: share of a target that goes to all classes, or to the other side of each sigmoid.
        """
        sided = self._of_sigmoids if self.multilabel else self._of_softmax
        return sided(logits.to(targets.dtype), targets, smoothing)

    def _of_softmax(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        logs = logits.log_softmax(1)
        smoothed = targets * (1 - smoothing) + smoothing / targets.shape[1]
        terms = -smoothed * logs * self._focus(logs)
        if self.weights is None:
            return terms.sum() / len(targets)
        return (terms * self.weights).sum() / (targets * self.weights).sum()

    def _of_sigmoids(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        smoothed = targets * (1 - smoothing) + smoothing / 2
        present, absent = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
        positive = -smoothed * present * self._focus(present)
        if self.weights is not None:
            positive = positive * self.weights
        return (positive - (1 - smoothed) * absent * self._focus(absent)).mean()

    def _focus(self, logs: Tensor) -> Tensor | float:
        """(1 - p) ** gamma, from log p."""
        return (1 - logs.exp()).clamp(min=_SMALLEST).pow(self.gamma) if self.gamma else 1.0


def class_weights(train: Arrays, config: Fit) -> Tensor | None:
    """float32 [C] where balanced; None else.

    Of one label an image n / (C * n_c) (King and Zeng 2001, as in scikit-learn); of several, images without a label
    per image with it.
    """
    if config.class_weights == "none":
        return None
    images, classes = len(train.labels), len(train.classes)
    if train.multilabel:
        counts = train.labels.sum(axis=0)
        weights = np.maximum(images - counts, 1) / np.maximum(counts, 1)
    else:
        counts = np.bincount(train.labels, minlength=classes)
        weights = images / (classes * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32)
