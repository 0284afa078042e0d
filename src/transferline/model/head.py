"""The head: pooling, hidden layers, and one linear layer that gives the logits."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from transferline import sections

Pooling = Literal["average", "max", "average_max", "generalised_mean", "token", "flatten"]

GENERALISED_MEAN_POWER = 3.0
_SMALLEST = 1e-6  # a generalised mean takes a root, so what is below is clamped

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class Pool(nn.Module):
    """Features to one vector an image, without parameters: behind a frozen backbone it is part of what is kept.

    `average` (Lin et al. 2013, arXiv 1312.4400), `max`, `average_max` (both, concatenated, as in Howard and Gugger
    2020, arXiv 2002.04688), `generalised_mean` (Radenovic et al. 2017, arXiv 1711.02512, with their power of 3),
    `token` (the class token, Dosovitskiy et al. 2020, arXiv 2010.11929), `flatten` (every position, as in LeNet and
    VGG; the width then depends on the input size).

    Args:
        kind: one of the above.
        prefix_tokens: of a token map, how many tokens stand before those of the patches.
    """

    def __init__(self, kind: Pooling, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.kind, self.prefix_tokens = kind, prefix_tokens

    def extra_repr(self) -> str:
        return f"{self.kind}, prefix_tokens={self.prefix_tokens}"

    def forward(self, features: Tensor) -> Tensor:
        """A feature map [B, D, h, w], a token map [B, T, D] or a vector [B, D] -> [B, P], all of one float type."""
        if self.kind == "token" or features.ndim == 2:  # which is a vector already
            return features[:, 0] if self.kind == "token" else features
        places = features[:, self.prefix_tokens :].transpose(1, 2) if features.ndim == 3 else features
        if self.kind == "flatten":
            return places.flatten(1)
        over = tuple(range(2, places.ndim))
        match self.kind:
            case "average":
                return places.mean(over)
            case "max":
                return places.amax(over)
            case "average_max":
                return torch.cat([places.mean(over), places.amax(over)], 1)
            case "generalised_mean":
                powers = places.clamp(min=_SMALLEST).pow(GENERALISED_MEAN_POWER)
                return powers.mean(over).pow(1 / GENERALISED_MEAN_POWER)


class Head(nn.Module):
    """Pooling, any number of hidden layers, one linear layer; before each layer dropout.

    A hidden layer is linear -> norm -> activation. By default there is none: a linear head on a good backbone is
    hard to beat, and is the head that a linear probe measures (Kornblith et al. 2018, arXiv 1805.08974).

    With taps it also sees the pooled features behind earlier blocks, as in Head2Toe (Evci et al. 2022, arXiv
    2201.03529). Features are standardised with the mean and scale of the training images, so that one learning rate
    suits all of them; until `standardise` is called they are taken as they are.

    Args:
        pool: as `Pool`, of the last block's features.
        width: numbers P that an image has after pooling, those of the taps included.
        config: the hidden layers.
        classes: logits C.
        dropout: probability of each pooled or hidden number to be dropped.
        taps: numbers, from 1, of the earlier blocks whose features it sees, in ascending order.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, pool: Pool, width: int, config: sections.Head, classes: int, dropout: float, *, taps: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.pool, self.taps = pool, tuple(taps)
        self.tap = Pool("average_max", pool.prefix_tokens)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        widths = (width, *config.hidden)
        layers = [_hidden(given, made, config, dropout) for given, made in pairwise(widths)]
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, features: Tensor) -> Tensor:
        """What the last block gives, float [B, ...] -> logits float [B, C]; without taps."""
        return self.classify(self.pool(features))

    def classify(self, pooled: Tensor) -> Tensor:
        """float [B, P] -> logits float [B, C]."""
        standardised = (pooled - self.mean) / self.scale
        logits: Tensor = self.linear(self.dropout(self.hidden(standardised)))
        return logits

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take features [P] less `mean`, in units of `scale`, from here on."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def set_dropout(self, probability: float) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = probability


def _hidden(given: int, made: int, config: sections.Head, dropout: float) -> nn.Sequential:
    norms: dict[str, list[nn.Module]] = {"none": [], "batch": [nn.BatchNorm1d(made)], "layer": [nn.LayerNorm(made)]}
    activation = ACTIVATIONS[config.activation]()
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(given, made), *norms[config.norm], activation)
