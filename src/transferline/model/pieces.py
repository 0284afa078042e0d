"""The modules that a library has as lines of its forward pass, where a cut needs them as blocks."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ToMap(nn.Module):
    """[B, h, w, D], as Swin's stages give it -> [B, D, h, w]."""

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


class TokensToMap(nn.Module):
    """[B, prefix + h * w, D] -> [B, D, h, w]: for transformers that have no class token.

    Args:
        grid: (h, w) of the patches.
        prefix: leading tokens that stand for no patch; dropped.
    """

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.grid, self.prefix = grid, prefix

    def forward(self, tokens: Tensor) -> Tensor:
        batch, _, width = tokens.shape
        return tokens[:, self.prefix :].transpose(1, 2).reshape(batch, width, *self.grid)


class VisionStem(nn.Module):
    """torchvision's vision transformer up to its first layer: patches, class token, positions.

    Dosovitskiy et al. 2020 (arXiv 2010.11929). It shares the weights of `vit`.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.conv_proj: nn.Conv2d = vit.conv_proj
        self.class_token: nn.Parameter = vit.class_token
        self.pos_embedding: nn.Parameter = vit.encoder.pos_embedding
        self.dropout: nn.Dropout = vit.encoder.dropout

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] -> tokens float32 [B, 1 + (S / 16)^2, D]."""
        patches = self.conv_proj(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        embedded: Tensor = self.dropout(tokens + self.pos_embedding)
        return embedded


class TimmVisionStem(nn.Module):
    """timm's vision transformer up to its first block, by timm's own code, whichever of its variants it is.

    It shares the weights of `vit`, whose blocks and head it does without.
    """

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit: Any = copy.copy(vit)
        kept = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
        self.vit._modules = {name: vit.get_submodule(name) for name in kept}

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] -> tokens float32 [B, T, D]."""
        tokens: Tensor = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(self.vit.patch_embed(pixels))))
        return tokens
