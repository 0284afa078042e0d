"""augment's work: the manifest's images, decoded once, as memory-mapped uint8 arrays."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transferline import cores
from transferline.artifacts import (
    ARRAYS,
    SPLITS,
    Arrays,
    ManifestRow,
    writable,
    write_array,
    write_header,
    write_json,
    write_online,
    write_table,
)
from transferline.data import images, transforms
from transferline.data.folders import replaced
from transferline.data.images import Pixels
from transferline.data.preprocess import Fit, Resize
from transferline.errors import UserError
from transferline.labelsets import names_of
from transferline.policy import Transform

_CHANNELS = 3


@dataclass(frozen=True)
class Recipe:
    """Everything that the bytes of the arrays depend on, besides the images.

    Attributes:
        size: side of the network's input in pixels.
        fit: how an image becomes square.
        views: augmented views of each training image, beside the clean one.
        policy: transforms of the augmented views.
        seed: of the line.
        online: views are drawn while training, and none is stored.
        multilabel: the label of a row is a joined set of names.
    """

    size: int
    fit: Fit
    views: int
    policy: tuple[Transform, ...]
    seed: int
    online: bool = False
    multilabel: bool = False

    def shape(self, rows: Sequence[ManifestRow]) -> tuple[int, int, int, int, int]:
        """[N, V, H, W, 3] of the array of `rows`, which are all of one split."""
        views = 1 + (self.views if rows[0].split == "train" and not self.online else 0)
        return len(rows), views, self.size, self.size, _CHANNELS


def write(rows: Sequence[ManifestRow], root: Path, recipe: Recipe, workers: int | None, folder: Path = ARRAYS) -> int:
    """Write the arrays of all splits into `folder`, replacing it as a whole; return their size in bytes.

    The bytes are the same for any number of workers.

    Args:
        rows: of the manifest; every split has some.
        root: data.root.
        workers: processes that decode; 0 decodes in this one, None takes one per core.

    Raises:
        UserError: the disk is too small, or an image has changed since prepare.
    """
    parts = {split: [row for row in rows if row.split == split] for split in SPLITS}
    needed = sum(int(np.prod(recipe.shape(part))) for part in parts.values())
    with replaced(folder) as partial:
        require_space(partial, needed, "lower augment.views or model.input_size")
        classes = class_names(rows, recipe)
        write_json(partial / "classes.json", classes)
        for split, part in parts.items():
            write_split(part, root, recipe, cores.usable() if workers is None else workers, partial / split)
            write_array(partial / split / "labels.npy", labels_of(part, classes, recipe.multilabel))
            write_table(partial / split / "index.parquet", _index(part))
        if recipe.online:
            write_online([transform for transform in recipe.policy if transform.enabled], partial / "train")
    return needed


def examples(image: Pixels, train: Arrays, count: int, seed: int) -> list[Pixels]:
    """Some views of a stored image as training will draw them; none where views are stored. All uint8 [S, S, 3]."""
    if not train.online:
        return []
    images = torch.from_numpy(np.repeat(image[None], count, axis=0))
    return list(transforms.drawn(images, train.online, [(seed, view) for view in range(count)]).numpy())


def class_names(rows: Sequence[ManifestRow], recipe: Recipe) -> list[str]:
    """The one order of the names of all classes in the manifest's `rows`."""
    return sorted({name for row in rows for name in names_of(row.label, recipe.multilabel)})


def labels_of(rows: Sequence[ManifestRow], classes: Sequence[str], multilabel: bool) -> npt.NDArray[np.int64]:
    """Indices int64 [N] into `classes`; in multi-label data, 0 or 1 for each class, int64 [N, C]."""
    place = {name: index for index, name in enumerate(classes)}
    if not multilabel:
        return np.array([place[row.label] for row in rows], dtype=np.int64)
    labels = np.zeros((len(rows), len(classes)), dtype=np.int64)
    for index, row in enumerate(rows):
        labels[index, [place[name] for name in names_of(row.label, multilabel)]] = 1
    return labels


def _index(rows: Sequence[ManifestRow]) -> dict[str, list[object]]:
    return {
        "row": list(range(len(rows))),
        "path": [row.path for row in rows],
        "label": [row.label for row in rows],
        "group": [row.group for row in rows],
    }


def write_split(rows: Sequence[ManifestRow], root: Path, recipe: Recipe, workers: int | None, folder: Path) -> None:
    """images.npy of rows of one split in `folder`, which is made, and is to be put in place by the caller.

    Raises:
        UserError: an image has changed, or the disk is full.
    """
    path = folder / "images.npy"
    loader = DataLoader(_Views(rows, root, recipe), batch_size=None, num_workers=workers or 0)
    with writable(path), one_thread():
        folder.mkdir()
        with path.open("wb") as stream:
            write_header(stream, np.uint8, recipe.shape(rows))
            for item in track(loader, description=f"{folder.name:5}", total=len(rows)):
                if isinstance(item, str):
                    raise UserError(item, "'dvc repro' prepares the images again; do not change them while it runs")
                stream.write(np.ascontiguousarray(item.numpy()).data)


class _Views(Dataset[Tensor | str]):
    """Per row, uint8 [V, S, S, 3]; or what is wrong with its file.

    An exception would reach the parent process as another one, with a traceback for a message.
    """

    def __init__(self, rows: Sequence[ManifestRow], root: Path, recipe: Recipe) -> None:
        self.rows, self.root, self.recipe = rows, root, recipe
        self.resize = Resize(recipe.size, recipe.fit)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | str:
        row = self.rows[index]
        file = self.root / row.path
        try:
            data = images.read(file)
            if hashlib.sha256(data).hexdigest() != row.sha256:
                return f"{file} has changed since prepare"
            pixels = images.decode(data)
        except images.ImageError as reason:
            return f"{file} has changed since prepare: {reason}"
        seeds = [self._seed(row, view) for view in range(1, self.recipe.shape([row])[1])]
        return transforms.views(pixels, self.resize, self.recipe.policy, seeds)

    def _seed(self, row: ManifestRow, view: int) -> list[int]:
        """Of the path, not of the content: copies that a user made of rare images get views of their own."""
        path = int.from_bytes(hashlib.sha256(row.path.encode()).digest())
        return [self.recipe.seed, path, view]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums over an image round differently with another number of threads; workers have one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def require_space(folder: Path, needed: int, remedy: str) -> None:
    """Raises UserError, with what to do, where fewer than `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the arrays need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the disk of {folder.parent}",
            f"{remedy}, or free some space",
        )
