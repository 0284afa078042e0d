"""The one definition of preprocessing: arrays store its result, the ONNX graph contains it."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Fit = Literal["squash", "crop", "pad"]
PAD_VALUE = 128  # mid-grey
_BAND = 16  # output lines that are made at once: bounds the memory of a large image


class Resize(nn.Module):
    """Decoded RGB images of one size to the square input of the network.

    Antialiased bilinear interpolation, the triangle filter of Pillow and of torch's `antialias=True`, then rounded
    and clipped to whole grey levels, so that the result survives storage as uint8 exactly.

    The resize kernels of torch and onnxruntime differ by some thousandths of a grey level, more in large images, and
    so round a few pixels of every image differently. Here the filter is written out in whole numbers, which float64
    adds without error in any order (to 25,000 pixels a side at 224): every engine gives the same bytes.

    Args:
        size: side of the output in pixels.
        fit: `squash` ignores the aspect ratio, `crop` takes the central square first,
            `pad` extends the image to a square with mid-grey first.
    """

    def __init__(self, size: int, fit: Fit = "squash") -> None:
        super().__init__()
        self.size, self.fit = size, fit

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3], or those as floats -> float32 [B, 3, size, size] of whole numbers in 0..255."""
        height, width = images.shape[1], images.shape[2]
        if self.fit == "crop":
            side = torch.sym_min(height, width)
            # not slices: the exporter cannot prove how long a slice between dynamic bounds is
            inside = torch.arange(side, device=images.device)
            images = images.index_select(1, inside + (height - side) // 2)
            images = images.index_select(2, inside + (width - side) // 2)
        elif self.fit == "pad":
            side = cast("int", torch.sym_max(height, width))
            top, left = (side - height) // 2, (side - width) // 2
            margins = (0, 0, left, side - width - left, top, side - height - top)
            images = functional.pad(images, margins, value=PAD_VALUE)
        return _interpolated(images, self.size).round().float().clamp(0, 255).permute(0, 2, 3, 1)


def _interpolated(images: Tensor, size: int) -> Tensor:
    """[B, H, W, 3] -> float64 [B, columns, 3, rows], both of `size`, not rounded."""
    rows, of_rows = _sums(images.flatten(2), size)
    columns, of_columns = _sums(rows.transpose(1, 2).reshape(images.shape[0], images.shape[2], 3 * size), size)
    return columns.reshape(-1, size, 3, size) / (of_columns[:, None] * of_rows)[:, None]


def _sums(lines: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """[B, L, N] as `size` weighted sums of the L lines, and the sums of their weights.

    Returns:
        float64 [B, size, N] and [size], of whole numbers.
    """
    seen, weights = _bands(lines.shape[1], size, lines.device)
    sums = [weights[band] @ lines.index_select(1, seen[band]).double() for band in range(len(seen))]
    return torch.cat(sums, 1)[:, :size], weights.sum(2).flatten()[:size]


def _bands(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of `size` output lines, in G bands: the K input lines that a band sees, and how much each output weighs them.

    An output line is the middle of its share of the input, and sees `reach` to either side of it, in a triangle.
    Distances are counted in 1 / (2 * size) of an input line, so that all of them are whole numbers.

    Returns:
        int64 [G, K] of 0..length - 1, and whole float64 [G, _BAND, K]; the last band may go beyond `size`.
    """
    reach = cast("int", 2 * torch.sym_max(length, size))
    outputs = torch.arange(-(-size // _BAND) * _BAND, device=device).view(-1, _BAND)
    edges = (2 * outputs[:, :1] + 1) * length - reach
    # what // and clamp do: of whole numbers, TensorRT takes neither what the exporter makes of them
    first = ((edges - edges % (2 * size)).double() / (2 * size)).round().long()
    seen = first + torch.arange(((_BAND - 1) * length + reach) // size + 2, device=device)
    distances = ((2 * outputs + 1) * length)[:, :, None] - ((2 * seen + 1) * size)[:, None]
    inside = (seen >= 0) & (seen < length)
    weights = ((reach - distances.abs()) * inside[:, None]).double().clamp(min=0)
    return seen * inside, weights
