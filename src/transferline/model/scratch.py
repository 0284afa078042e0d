"""Two networks to learn from, and to measure transfer against: they start from random weights.

A convolutional network looks for the same small patterns all over the image: its weights are shared between places,
and its depth lets patterns be made of patterns. A fully connected one has a weight of its own for each pixel, knows
nothing of neighbourhoods, and so needs far more weights and images to learn as much. Train both on the same data:

    model: {backbone: small_cnn, weights: none, head: {pooling: flatten, hidden: [128]}}
    model: {backbone: mlp, weights: none}

`small_cnn` with that head is the textbook's network, as in LeCun et al. 1998: convolution and pooling, repeated, then
flatten, a fully connected layer, and the logits. With the head's default, global average pooling, it has no weight
that depends on the size of the image.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

CHANNELS = (3, 16, 32, 64, 128)  # of the image, and of each block's output
WIDTHS = (512, 256)  # of the fully connected layers


class SmallCNN(nn.Module):
    """Four times convolution, BatchNorm, ReLU and pooling: [B, 3, S, S] -> [B, 128, S / 16, S / 16].

    What each layer is for:

    1. A convolution slides 3x3 filters over the image; each filter's output shows where its pattern is.
       `padding=1` keeps height and width. It has no bias, since BatchNorm's would make up for it.
    2. BatchNorm (Ioffe and Szegedy 2015, arXiv 1502.03167) keeps each channel's values near mean 0, variance 1, so
       that layers can learn at once, at a high rate.
    3. ReLU lets through what is positive: without something that is not linear, all layers would collapse into one.
    4. Max pooling halves height and width, and keeps of each 2x2 neighbourhood the strongest response: what follows
       sees twice as far, and small shifts do not matter.

    While the map gets smaller, channels get more: less of where, more of what.
    """

    def __init__(self) -> None:
        super().__init__()
        for number, (given, made) in enumerate(pairwise(CHANNELS), 1):
            self.add_module(f"conv{number}", self._block(given, made))

    @staticmethod
    def _block(given: int, made: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(given, made, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, S, S] -> float [B, 128, S / 16, S / 16], rounded down."""
        for block in self.children():
            pixels = block(pixels)
        return pixels


class MLP(nn.Module):
    """Two fully connected layers on the pixels as one long vector: [B, 3, S, S] -> [B, 256, 1, 1].

    `Flatten` forgets which pixels are neighbours. The last layer gives its vector the shape of a feature map of a
    single place, which is all that the rest of the line needs.

    Args:
        image_size: S; the first layer has a weight for each of its 3 S^2 numbers and each of its outputs.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        widths = (3 * image_size**2, *WIDTHS)
        self.hidden1 = nn.Sequential(nn.Flatten(), *self._layer(widths[0], widths[1]))
        self.hidden2 = nn.Sequential(*self._layer(widths[1], widths[2]), nn.Unflatten(1, (widths[2], 1, 1)))

    @staticmethod
    def _layer(given: int, made: int) -> list[nn.Module]:
        return [nn.Linear(given, made, bias=False), nn.BatchNorm1d(made), nn.ReLU()]

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, S, S] -> float [B, 256, 1, 1]."""
        features: Tensor = self.hidden2(self.hidden1(pixels))
        return features


NETS: dict[str, Callable[..., nn.Module]] = {"small_cnn": SmallCNN, "mlp": MLP}
