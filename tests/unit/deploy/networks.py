"""Small networks of every kind of layer that backbones have, to be exported and reduced."""

from pathlib import Path

import torch
from torch import Tensor, nn

from transferline.deploy import export

from .conftest import make_card


class Tiny(nn.Module):
    """A convolution, whatever is to be tried, and a head; mean and scale as a backbone has them."""

    def __init__(self, body: nn.Module | None = None, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.stem = nn.Conv2d(3, width, 4, 4)
            self.body = nn.Identity() if body is None else body
            self.head = nn.Linear(width, 3)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 127.5), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(self.stem((pixels - self.mean) / self.mean)).mean((2, 3)))


class Gated(nn.Module):
    """Depthwise convolution, SiLU, squeeze and excitation, and a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.SiLU())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 8, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        inner = self.depthwise(features)
        return features + inner * self.gate(inner)


class Pooled(nn.Module):
    """Convolutions with BatchNorm, ReLU and a concatenation, between poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.right = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 4, 1), nn.Hardswish())

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.left(features), self.right(features)], 1)


class Tapped(nn.Module):
    """Average and maximum of the features go past the layer that follows, as to a head on several blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mixed = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(16, 8)

    def forward(self, features: Tensor) -> Tensor:
        taps = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.inner(features) + self.mixed(taps)[:, :, None, None]


class Attention(nn.Module):
    """A block of a vision transformer, with a class token and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 1, 8), 0.3))
        self.norm, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mixed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, features: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(features.shape[0], -1, -1), features.flatten(2).transpose(1, 2)], 1)
        query, key, value = self.mixed(self.norm(tokens)).chunk(3, -1)
        weights = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, -1)
        tokens = tokens + self.out(weights @ value)
        return (tokens + self.mlp(self.after(tokens))).transpose(1, 2)[..., None]


class MultiHead(nn.Module):
    """The attention of torch itself, and of torchvision's vision transformers: it begins by transposing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        inner = self.norm(tokens)
        return (tokens + self.attention(inner, inner, inner, need_weights=False)[0]).transpose(1, 2)[..., None]


class Fragile(nn.Module):
    """Its second layer is fed one channel that is a thousand times larger than those that tell images apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.second.weight[:, 0] = 0
            for layer in (self.first, self.second, self.third):
                layer.weight *= 4
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        hidden = torch.cat([hidden[:, :1] * 1000 + 5000, hidden[:, 1:]], 1)
        return self.third(self.second(hidden))


BODIES = {
    "plain": (Pooled, 4),
    "gated": (Gated, 5),
    "tapped": (Tapped, 4),
    "attention": (Attention, 6),
    "multi_head": (MultiHead, 4),
}


def exported(net: nn.Module, folder: Path, resize: str = "squash", **properties: str) -> Path:
    path = folder / "source.onnx"
    export.write_onnx(export.Deployed(net.eval(), make_card(resize), 1.7), path, 20, properties)
    return path
