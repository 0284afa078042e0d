"""Pooled features of the clean training images, before and after finetuning, from whatever the cache has of them."""

from collections.abc import Mapping

import torch
from torch import nn

from transferline.artifacts import ARRAYS, HEAD, Arrays, SplitName
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier
from transferline.model.engines import EngineName
from transferline.model.features import Extractor, Features, extract
from transferline.model.stored import Clean, Stored
from transferline.sections import Activations

LABEL = "label errors"


def both(
    finetuned: Classifier,
    freeze_depth: int,
    splits: Mapping[SplitName, Arrays],
    hashes: Mapping[str, str],
    config: Activations,
) -> list[Features]:
    """float32 [N, P] each: of the pretrained backbone, frozen, and of the finetuned one, where that differs.

    Each begins behind blocks whose activations train or finetune has left in the cache, where it keeps any; what has
    been evicted since is computed again, so that the figures do not depend on what happens to be there.

    Args:
        finetuned: the backbone before is that of models/head/.
        freeze_depth: which finetuning began behind.
        hashes: path -> sha256 of what the stage reads, `train` among it.
        config: of the cache.

    Raises:
        UserError: where models/head/ cannot be read.
    """
    frozen, _ = classifier.load(HEAD)
    train, count = splits["train"], splits["train"].views + splits["val"].views  # as train and finetune counted
    digest, blocks, shared = hashes[(ARRAYS / "train").as_posix()], len(frozen.blocks), shared_blocks(frozen, finetuned)
    depth = min(freeze_depth, shared)
    wanted = {blocks} if shared == blocks else {blocks, depth}
    kept = Cache(config).open(frozen, train, digest, wanted, LABEL, count=count)
    pretrained = _features(frozen, kept.get(blocks), train, config.engine)
    if shared == blocks:
        return [pretrained]
    return [pretrained, _features(finetuned, kept.get(depth), train, config.engine)]


def shared_blocks(one: Classifier, other: Classifier) -> int:
    """How many of the first blocks are the same function in both: weights and statistics."""
    pairs = zip(one.blocks, other.blocks, strict=True)
    return next((depth for depth, (a, b) in enumerate(pairs) if not _equal(a, b)), len(one.blocks))


def _equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _features(net: Classifier, stored: Stored | None, train: Arrays, engine: EngineName) -> Features:
    if stored is None:
        return extract(net, train.images[:, 0], engine, LABEL)
    clean, depth = Clean(stored), stored.entry.depth
    if depth == len(net.blocks):
        return clean[:].reshape(len(clean), -1)
    return Extractor(net, len(clean), engine, start=depth)(clean, LABEL)
