"""The one definition of preprocessing: arrays store its result, the ONNX graph contains it."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Fit = Literal["squash", "crop", "pad"]
PAD_VALUE = 128.0  # mid-grey; a whole level, since 127.5 would round up or down by the noise of a resize


class Resize(nn.Module):
    """Decoded RGB images of one size to the square input of the network.

    Antialiased bilinear interpolation in float32, then rounded and clipped to whole grey levels,
    so that the result survives storage as uint8 exactly.

    Args:
        size: side of the output in pixels.
        fit: `squash` ignores the aspect ratio, `crop` takes the central square first,
            `pad` extends the image to a square with mid-grey first.
    """

    def __init__(self, size: int, fit: Fit = "squash") -> None:
        super().__init__()
        self.size, self.fit = size, fit

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, size, size] of whole numbers in 0..255."""
        height, width = images.shape[1], images.shape[2]
        if self.fit == "crop":
            side = torch.sym_min(height, width)
            # not slices: the exporter cannot prove how long a slice between dynamic bounds is
            inside = torch.arange(side, device=images.device)
            images = images.index_select(1, inside + (height - side) // 2)
            images = images.index_select(2, inside + (width - side) // 2)
        pixels = images.permute(0, 3, 1, 2).float()
        if self.fit == "pad":
            side = cast("int", torch.sym_max(height, width))
            top, left = (side - height) // 2, (side - width) // 2
            margins = (left, side - width - left, top, side - height - top)
            pixels = functional.pad(pixels, margins, value=PAD_VALUE)
        resized = functional.interpolate(
            pixels, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
        )
        return resized.round().clamp(0, 255)
