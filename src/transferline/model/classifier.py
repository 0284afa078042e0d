"""Backbone and head as one module, and its life on disk."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transferline.artifacts import Arrays, ModelCard, atomic, read_card, readable, write_card
from transferline.errors import UserError
from transferline.model import backbones, memory
from transferline.model.backbones import Spec
from transferline.model.head import Head, Pool
from transferline.model.weights import load_weights
from transferline.sections import Model

WEIGHTS = "model.safetensors"
_Module = TypeVar("_Module", bound=nn.Module)


class _Freezable(nn.Module):
    """Blocks of which the first are a fixed function, and a head.

    Attributes:
        offset: how many of the backbone's blocks come before `blocks`.
        frozen_statistics: whether BatchNorm of blocks in training keeps its statistics; its affine part is trained.
    """

    blocks: nn.ModuleList
    head: Head
    freeze_depth: int
    offset: int = 0
    frozen_statistics: bool = False

    def freeze(self, depth: int) -> None:
        """Make the backbone's first `depth` blocks a fixed function: no gradient, BatchNorm in eval mode.

        Raises:
            UserError: where `depth` is more than there are blocks.
        """
        count = self.offset + len(self.blocks)
        if not self.offset <= depth <= count:
            raise UserError(
                f"freeze_depth: {depth} is out of range: the backbone has {count} blocks",
                f"the nearest right value is {min(max(depth, self.offset), count)}",
            )
        self.freeze_depth = depth
        for index, block in enumerate(self.blocks, self.offset):
            block.requires_grad_(index >= depth)
        self.train(self.training)

    def _classified(self, features: Tensor, taps: Sequence[Tensor] = ()) -> Tensor:
        """Run `blocks` and the head; `taps` [B, ...] are pooled behind the blocks that come before."""
        seen = list(taps)
        for number, block in enumerate(self.blocks, self.offset + 1):
            features = block(features)
            if number in self.head.taps:
                seen.append(self.head.tap(features))
        pooled = self.head.pool(features) if self.blocks else features
        return self.head.classify(torch.cat([*seen, pooled], 1) if seen else pooled)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module.train, but frozen blocks stay in eval mode, and so do norms with frozen statistics."""
        super().train(mode)
        for block in self.blocks[: self.freeze_depth - self.offset]:
            block.eval()
        if self.frozen_statistics:
            for module in self.blocks.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class Classifier(_Freezable):
    """Normalisation, the backbone's blocks in order, the head."""

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: list[nn.Module], head: Head, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.tap_widths: list[int] = []  # numbers behind each block but the last, where the head sees some of them
        self.freeze_depth = 0
        # Not in the state dict: the card is the one place where they are kept.
        self.register_buffer("mean", 255 * torch.tensor(card.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(card.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] of grey levels 0..255 -> logits float32 [B, C]."""
        return self._classified(self.normalise(pixels))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Grey levels 0..255 -> what the backbone's weights expect, both float32 [B, 3, S, S]."""
        return (pixels - self.mean) / self.std


class Suffix(_Freezable):
    """What is trained above the freeze depth, sharing its weights with the whole classifier.

    It takes what the frozen blocks gave: float [B, ...boundary]. Where all blocks are frozen, that is pooled already.
    Where the head sees frozen blocks, it takes what is pooled behind them as well: float [B, K].
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.offset = self.freeze_depth = classifier.freeze_depth
        self.frozen_statistics = classifier.frozen_statistics
        self.blocks = classifier.blocks[classifier.freeze_depth :]
        self.head = classifier.head

    def forward(self, features: Tensor, taps: Tensor | None = None) -> Tensor:
        """float32 [B, ...boundary], and float32 [B, K] of the taps that are frozen -> logits float32 [B, C]."""
        return self._classified(features, () if taps is None else (taps,))


def make_card(model: Model, arrays: Arrays, taps: Sequence[int] = ()) -> ModelCard:
    """The card of a new classifier of the images in `arrays`, whose head sees the blocks `taps`, too.

    Raises:
        UserError: for an unknown backbone.
    """
    spec = backbones.spec(model.backbone)
    return ModelCard(
        backbone=model.backbone,
        classes=arrays.classes,
        input_size=int(arrays.images.shape[2]),
        resize=model.resize,
        mean=list(spec.mean),
        std=list(spec.std),
        dropout=model.dropout,
        head=model.head,
        stochastic_depth=model.stochastic_depth,
        task="multilabel" if arrays.multilabel else "multiclass",
        taps=list(taps),
    )


def build(card: ModelCard, weights: str, seed: int) -> Classifier:
    """A classifier with the backbone's `weights` (see load_weights) and a fresh, seeded head.

    Raises:
        UserError: for an unknown backbone, an input size or a stochastic depth that it cannot take, or weights that
            cannot be had or do not fit.
    """
    memory.keep_freed()  # here, since every process that runs a network in torch comes by
    spec = backbones.spec(card.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = spec.create(card.stochastic_depth, card.input_size)
        load_weights(model, spec, weights)
        blocks = spec.cut(model)
        widths = tap_widths(blocks, card) if card.taps else []
        made = Classifier(blocks, _head(blocks, spec, card, widths), card)
        made.tap_widths = widths
        return made


def rebuild(classifier: Classifier, card: ModelCard, seed: int) -> Classifier:
    """Another classifier of that card, as `build` makes it, with copies of the blocks' weights of `classifier`."""
    made = build(card, "none", seed)
    made.blocks.load_state_dict(classifier.blocks.state_dict())
    return made


def _head(blocks: list[nn.Module], spec: Spec, card: ModelCard, widths: Sequence[int]) -> Head:
    kind = card.head.pooling
    if kind == "auto":
        kind = "token" if spec.prefix_tokens else "average"
    spec.require_pooling(kind)
    pool = Pool(kind, spec.prefix_tokens)
    width = spec.feature_dim * (2 if kind == "average_max" else 1)
    if kind == "flatten":  # the one width that depends on the size of the input
        with torch.inference_mode():
            width = pool(nn.Sequential(*blocks).eval()(torch.zeros(1, 3, card.input_size, card.input_size))).shape[1]
    width += sum(widths[number - 1] for number in card.taps)
    return Head(pool, width, card.head, len(card.classes), card.dropout, taps=card.taps)


@torch.inference_mode()
def tap_widths(blocks: Iterable[nn.Module], card: ModelCard) -> list[int]:
    """How many numbers an image has behind each block but the last, once pooled."""
    features, widths = torch.zeros(1, 3, card.input_size, card.input_size), []
    pool = Pool("average_max", backbones.spec(card.backbone).prefix_tokens)
    for block in blocks:
        features = block.eval()(features)
        widths.append(pool(features).shape[1])
    return widths[:-1]


def save(classifier: Classifier, card: ModelCard, folder: Path) -> None:
    """Write weights and card; equal weights are equal bytes."""
    from safetensors.torch import save_file

    state = {key: tensor.contiguous() for key, tensor in classifier.state_dict().items()}
    with atomic(folder / WEIGHTS) as partial:
        save_file(state, partial)
    write_card(card, folder)


def load(folder: Path) -> tuple[Classifier, ModelCard]:
    """The classifier in eval mode on the CPU, and its card. Raises UserError where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(folder)
    classifier = build(card, "none", seed=0)
    path = folder / WEIGHTS
    with readable(path):
        try:
            classifier.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(str(error).splitlines()[0]) from None
    return classifier.eval(), card


def pick_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def predict_logits(
    classifier: Classifier, images: npt.NDArray[np.uint8], batch_size: int, description: str = "predicting"
) -> npt.NDArray[np.float32]:
    """Logits in float32 on the best device at hand, with a progress bar.

    Args:
        classifier: left in eval mode, on the CPU.
        images: uint8 [N, S, S, 3].
        batch_size: images a forward pass; where they do not fit into memory, half of them, and so on.
        description: the label of the progress bar.

    Returns:
        float32 [N, C].

    Raises:
        UserError: where not even one image fits.
    """
    device = pick_device()
    classifier = classifier.eval().to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()  # not around what is moved: weights of inference cannot be trained any more
    def run(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        given = torch.from_numpy(np.array(batch)).to(device)
        logits: npt.NDArray[np.float32] = classifier(given.permute(0, 3, 1, 2).float()).cpu().numpy()
        return logits

    halving, parts = memory.Halving(run, description), []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # what is deployed must reproduce these numbers
        for start in track(range(0, len(images), batch_size), description=description):
            parts += halving(images[start : start + batch_size])
    classifier.cpu()
    return np.concatenate(parts) if parts else np.empty((0, classifier.head.linear.out_features), np.float32)


def out_of_place(module: _Module) -> _Module:
    """A copy that computes no activation in place: torch.export makes the same graph of it in less time."""
    copy = deepcopy(module)
    for attributes in map(vars, copy.modules()):
        if "inplace" in attributes:
            attributes["inplace"] = False
    return copy
