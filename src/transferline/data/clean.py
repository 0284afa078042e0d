"""Some clean images without the line's arrays: to compare backbones on, at any input size, or to audit the policy on.

Backbones are compared on training images alone, which lie in a folder of their own.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferline import cores
from transferline.artifacts import Arrays, ManifestRow, SplitName, read_array
from transferline.data.arrays import Recipe, class_names, labels_of, require_space, write_split
from transferline.data.folders import replaced
from transferline.data.preprocess import Fit
from transferline.errors import UserError

_FORMAT = 1  # of what lies in a folder and of how it is made
_TRAIN: SplitName = "train"


def sample(
    rows: Sequence[ManifestRow], limit: int, seed: int, splits: Collection[SplitName] = (_TRAIN,)
) -> list[ManifestRow]:
    """Rows of some splits of the manifest, in its order: all, or about `limit`, the same share of every class.

    Sets of labels may be as many as images are; they are drawn from without regard to them where that is so.
    """
    part = [row for row in rows if row.split in splits]
    if len(part) <= limit:
        return part
    rng, kept = np.random.default_rng(seed), []
    for label in sorted({row.label for row in part}):
        of_class = [number for number, row in enumerate(part) if row.label == label]
        count = max(round(limit * len(of_class) / len(part)), 1)
        kept += rng.permutation(of_class)[:count].tolist()
    if len(kept) > 2 * limit:
        kept = rng.permutation(len(part))[:limit].tolist()
    return [part[number] for number in sorted(kept)]


def taken(
    rows: Sequence[ManifestRow],
    root: Path,
    recipe: Recipe,
    workers: int | None,
    *,
    limit: int,
    splits: Collection[SplitName],
) -> Arrays:
    """About `limit` clean images of some splits, decoded as they will be stored, in memory, with their groups.

    Args:
        rows: all of the manifest.
        root: data.root.
        workers: as `arrays.write`.

    Raises:
        UserError: an image has changed since prepare.
    """
    part, classes = sample(rows, limit, recipe.seed, splits), class_names(rows, recipe)
    with tempfile.TemporaryDirectory() as scratch:
        processes = cores.usable() if workers is None else workers
        write_split(part, root, replace(recipe, views=0), processes, Path(scratch) / "clean")
        images = read_array(Path(scratch) / "clean" / "images.npy")
    labels, groups = labels_of(part, classes, recipe.multilabel), np.array([row.group for row in part], dtype=np.int64)
    return Arrays(images, labels, [row.path for row in part], classes, groups=groups)


def decoded(
    rows: Sequence[ManifestRow], root: Path, size: int, fit: Fit, folder: Path, *, multilabel: bool = False
) -> tuple[Arrays, str]:
    """Clean images of training rows, memory-mapped, and a digest of all they depend on.

    Decoded once: they stay in `folder`, and those of other rows, of the same size, make room for them.

    Args:
        rows: from `sample`.
        root: data.root.
        size: side in pixels.
        fit: how an image becomes square.
        folder: may not exist yet.
        multilabel: whether images have any number of labels.

    Raises:
        UserError: the disk is too small, or an image has changed since prepare.
    """
    assert {row.split for row in rows} == {_TRAIN}, "what is chosen on train must not see other splits"
    digest = _digest(rows, size, fit)
    place = folder / f"{size}-{digest}"
    recipe = Recipe(size, fit, views=0, policy=(), seed=0, multilabel=multilabel)
    images = _kept(place)
    if images is None:
        for other in folder.glob(f"{size}-*"):
            shutil.rmtree(other, ignore_errors=True)
        with replaced(place) as partial:
            require_space(partial, int(np.prod(recipe.shape(rows))), "lower compare.max_images or model.input_size")
            write_split(rows, root, recipe, None, partial / _TRAIN)
        images = read_array(place / _TRAIN / "images.npy", mapped=True)
    classes = class_names(rows, recipe)
    return Arrays(images, labels_of(rows, classes, multilabel), [row.path for row in rows], classes), digest


def _kept(place: Path) -> npt.NDArray[np.uint8] | None:
    """None where there are none, or what there is of them is cut short."""
    try:
        return read_array(place / _TRAIN / "images.npy", mapped=True)
    except UserError:
        return None


def _digest(rows: Sequence[ManifestRow], size: int, fit: Fit) -> str:
    known = [_FORMAT, size, fit, [[row.path, row.sha256] for row in rows]]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
