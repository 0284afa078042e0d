"""The linear probe: what the frozen backbone knows already, in seconds, and where training starts.

Logistic regression on pooled features of the clean images, chosen by cross-validation on the training images with
(near) duplicates kept together. It is the baseline of all that follows, the start of the head (LP-FT, Kumar et al.
2022, arXiv 2202.10054), and says how far down adaptation pays: where features of early blocks tell more than the last
block does, the task is far from what the backbone was trained on (compare Lee et al. 2022, arXiv 2210.11466).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from transferline.artifacts import Arrays, Option, Probed
from transferline.model import classifier
from transferline.model.classifier import Classifier
from transferline.model.engines import EVERY, EngineName
from transferline.model.features import Extractor
from transferline.model.linear_probe import Floats, HeldOut, Labels, Probe, fit_probe, grouped_folds, held_out
from transferline.model.stored import Clean, Stored
from transferline.sections import Head
from transferline.training.choice import by_chance
from transferline.training.data import Splits, tap_columns
from transferline.training.sampling import stratified_rows

FOLDS = 4
MOST_IMAGES = 3000  # that are cross-validated; the fit itself sees all up to MOST_FITTED
MOST_FITTED = 20_000
CERTAIN = 2.0  # standard errors of a gain in log loss
SHARE = 0.1  # of the whole gain over the last block's features
UNSEEN = 20.0  # largest bias, either way, of a class without an image, or of a label that all images have

Features = npt.NDArray[np.float32]
KeptSplits = Mapping[int, tuple[Stored, Stored]]


@dataclass(frozen=True)
class BlockFeatures:
    """Pooled features of the clean images behind every block.

    Attributes:
        train, val: float32 [N, K + P]: K numbers of all blocks but the last, then the P of the last.
        widths: numbers of each block but the last; they add up to K.
    """

    train: Features
    val: Features
    widths: list[int]

    def columns(self, taps: Sequence[int]) -> Labels:
        """What a head sees: those of the blocks `taps`, from 1, and of the last."""
        return np.concatenate([tap_columns(self.widths, taps), np.arange(sum(self.widths), self.train.shape[1])])


def block_features(net: Classifier, splits: Splits, kept: KeptSplits, engine: EngineName = "auto") -> BlockFeatures:
    """From what the cache keeps; else by a pass over the clean images.

    Args:
        net: whose pooling of the last block is taken.
        kept: of `kept_splits`, with EVERY and the depth of all blocks where they could be kept.
        engine: that runs the blocks where they are not.
    """
    last, widths = len(net.blocks), classifier.tap_widths(net.blocks, net.card)
    if EVERY in kept and last in kept:
        found = [np.hstack([Clean(kept[depth][side])[:].reshape(len(kept[depth][side].values), -1)
                            for depth in (EVERY, last)]) for side in (0, 1)]  # fmt: skip
    else:
        extract = Extractor(net, len(splits.train.images) + len(splits.val.images), engine, every=True)
        found = [extract(split.images[:, 0], "probe") for split in (splits.train, splits.val)]
    return BlockFeatures(found[0], found[1], widths)


def probe(features: BlockFeatures, train: Arrays, head: Head, seed: int) -> Probed:
    """Choose what the head sees and how strictly it is fitted, on the training images alone.

    The head sees all blocks unless fewer are better beyond chance: features of more blocks cost a regularised probe
    little where they tell nothing, and much where they are left out by mistake.

    Args:
        features: of the splits; `val` is not looked at.
        train: labels, and groups of near duplicates.
        head: `features` names what it may see.
        seed: of the folds.

    Raises:
        UserError: where the training images are too few, or of one class.
    """
    rows = stratified_rows(train.labels, min(1.0, MOST_IMAGES / len(train.labels)), seed)
    labels, groups = train.labels[rows], rows if train.groups is None else train.groups[rows]
    folds = grouped_folds(labels, groups, FOLDS, seed)
    blocks, classes = len(features.widths) + 1, len(train.classes)

    def judge(columns: Labels, **options: Any) -> HeldOut:
        return held_out(features.train[rows][:, columns], labels, classes, folds, **options)

    taps = {"last": (), "last half": range(blocks - blocks // 2 + 1, blocks), "all": range(1, blocks)}
    wanted = {"last": ["last"], "blocks": ["all"], "auto": list(taps)}[head.features]
    judged = {name: judge(features.columns(taps[name])) for name in track(wanted, "probe: features")}
    best = min(judged.values(), key=lambda one: one.loss)
    chosen = next(name for name in reversed(wanted) if by_chance(judged[name].losses, best.losses))
    strength = {"priors": [judged[chosen].prior]}
    upwards = [judge(features.columns(range(first, blocks)), **strength) for first in track(
        range(1, blocks + 1), "probe: block by block")]  # fmt: skip
    alone = [judge(tap_columns(features.widths, [number]), **strength) for number in range(1, blocks)]
    return Probed(
        features=chosen,
        taps=list(taps[chosen]),
        prior=judged[chosen].prior,
        options=[_option(name, judged[name]) for name in wanted],
        upwards=[_option(f"from block {number}", one) for number, one in enumerate(upwards, 1)],
        alone=[_option(f"block {number}", one) for number, one in enumerate([*alone, upwards[-1]], 1)],
        depth=suggested_depth([one.losses for one in upwards]),
    )


def _option(name: str, judged: HeldOut) -> Option:
    accuracy, error = float(judged.right.mean()), float(judged.right.std() / len(judged.right) ** 0.5)
    interval = [round(max(accuracy - 1.96 * error, 0.0), 4), round(min(accuracy + 1.96 * error, 1.0), 4)]
    return Option(name, judged.prior, round(judged.loss, 6), round(accuracy, 4), interval)


def suggested_depth(losses: Sequence[Floats]) -> int:
    """The freeze depth below which features stop to help: of the first block that adds to those above it.

    A block adds where it lowers the loss by CERTAIN standard errors, paired image by image, and by SHARE of what all
    add to the last block's features. All blocks where none does.

    Args:
        losses: float64 [N] each, of a probe that sees block 1 and all above it, block 2 and all above it, and so on.
    """
    whole = float(losses[-1].mean()) - min(float(one.mean()) for one in losses)
    for number, (with_it, without) in enumerate(pairwise(losses), 1):
        gain = without - with_it
        error = float(gain.std()) / len(gain) ** 0.5
        if gain.mean() > max(CERTAIN * error, SHARE * whole):
            return number
    return len(losses)


def fit_head(net: Classifier, features: Features, labels: Labels, prior: float, seed: int) -> Probe:
    """Give `net` the standardisation of `features` and, where its head is linear, the probe's weights.

    Args:
        features: float32 [N, P], what the head of `net` sees.
        labels: of the images, as in Arrays.
        prior: as of `fit_probe`.
        seed: of the solver, and of the images taken where there are very many.
    """
    rows = stratified_rows(labels, min(1.0, MOST_FITTED / len(labels)), seed)
    classes = net.head.linear.out_features
    found = fit_probe(features[rows], labels[rows], classes, prior=prior)
    linear = len(net.head.hidden) == 0
    # Together the numbers of an image then have about unit length, however many they are: so one rate suits all heads.
    spread = found.scale * (features.shape[1] ** 0.5 if linear else 1.0)
    net.head.standardise(torch.from_numpy(found.mean).float(), torch.from_numpy(spread).float())
    if linear:
        weights = found.weights * (features.shape[1] ** 0.5)
        bias = np.clip(found.bias, -UNSEEN, UNSEEN)
        with torch.no_grad():
            net.head.linear.weight.copy_(torch.from_numpy(weights.T.copy()).float())
            net.head.linear.bias.copy_(torch.from_numpy(bias).float())
    return found
