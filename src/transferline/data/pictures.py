"""Pictures of the data: samples of each class, how the classes are distributed, augmented views."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from transferline.artifacts import SPLITS, Arrays, ManifestRow, SplitName, atomic
from transferline.data import images
from transferline.data.images import Pixels

Row = TypeVar("Row")

_COLORS: dict[SplitName, str] = {"train": "#3b6fb6", "val": "#e8a33d", "test": "#5aa469"}
_COLUMNS = 6  # pictures in a row
_ROWS = 24  # rows at most: beyond, a picture is too tall to be looked at
_BARS = 100  # of classes at most
_NAME = 40  # characters of a line of a name
_THUMBNAIL = 256  # pixels
_CELL, _SHOWN = 165, 155  # pixels of a place in a grid, and of the longer side of its image
_NONE = "(no label)"


def samples(rows: Sequence[tuple[ManifestRow, Sequence[str]]], root: Path, path: Path) -> None:
    """A row of images per class, spread evenly over the class's rows; each row comes with its classes."""
    by_class: dict[str, list[ManifestRow]] = defaultdict(list)
    for row, names in rows:
        for name in names or [_NONE]:
            by_class[name].append(row)
    shown = sorted(by_class)[:_ROWS]
    grid = [[_thumbnail(root / row.path) for row in _spread(by_class[label], _COLUMNS)] for label in shown]
    captions = [f"{label}\n({len(by_class[label])})" for label in shown]
    title = "Samples of each class, from train"
    if len(by_class) > _ROWS:
        title = f"Samples of the first {_ROWS} of {len(by_class)} classes, from train"
    _save_grid(grid, captions, [], title, path)


def preview(
    train: Arrays,
    path: Path,
    caption: str = "no augmentation",
    draw: Callable[[Pixels], Sequence[Pixels]] = lambda _: (),
) -> None:
    """Originals of train, at the network's input size, each beside its augmented views.

    Args:
        caption: what makes the views, for the title.
        draw: gives some views of an original, where none is stored.
    """
    rows = _interleaved([train.names(row) for row in range(len(train.labels))])[
        : max(_COLUMNS, min(len(train.classes), _ROWS))
    ]
    views = min(train.images.shape[1], 1 + _COLUMNS)
    grid = [[*train.images[row, :views], *draw(train.images[row, 0])] for row in rows]
    labels = ["\n".join(train.names(row)) or _NONE for row in rows]
    heads = ["original", *(f"view {view}" for view in range(1, len(grid[0])))]
    _save_grid(grid, labels, heads, f"Originals and their views ({caption})", path)


def classes(counts: Mapping[str, Sequence[int]], images: Sequence[int], path: Path) -> None:
    """Bars of images per class, stacked by split; of the first classes, where there are very many.

    Args:
        counts: class -> numbers in train, val, test.
        images: in train, val, test; an image may be in several classes.
    """
    title = "Images per class and split"
    if len(counts) > _BARS:
        title += f": the first {_BARS} of {len(counts)} classes"
        counts = dict(list(counts.items())[:_BARS])
    height = 1.6 + 0.34 * len(counts)
    figure = Figure(figsize=(8, min(height, 60)), layout="constrained")
    axes = figure.add_subplot()
    positions = range(len(counts))
    left = np.zeros(len(counts))
    for index, split in enumerate(SPLITS):
        widths = np.array([row[index] for row in counts.values()])
        axes.barh(positions, widths, left=left, height=0.7, color=_COLORS[split], label=f"{split} ({images[index]})")
        left += widths
    for position, total in zip(positions, left, strict=True):
        axes.annotate(f"{total:.0f}", (total, position), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(positions, map(_plain, counts))
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.set_xlim(0, left.max() * 1.1)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    _save(figure, path)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` of the rows, evenly spaced."""
    picked = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[index] for index in picked]


def _interleaved(labels: Sequence[Sequence[str]]) -> list[int]:
    """Indices of `labels`, those of the classes (or sets of them) taking turns, so that few of them show all."""
    turns: dict[tuple[str, ...], int] = defaultdict(int)
    order = []
    for index, label in enumerate(map(tuple, labels)):
        order.append((turns[label], label, index))
        turns[label] += 1
    return [index for _, _, index in sorted(order)]


def _thumbnail(path: Path) -> Pixels:
    image = Image.fromarray(images.decode(path))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(image)


def _save_grid(
    grid: Sequence[Sequence[Pixels]], names: Sequence[str], heads: Sequence[str], title: str, path: Path
) -> None:
    """A row of images for each of `names`, put together before Matplotlib draws them: it is slow with many."""
    rows, columns = len(grid), max(map(len, grid))
    canvas = Image.new("RGB", (_CELL * columns, _CELL * rows), "white")
    for row, pictures in enumerate(grid):
        for column, pixels in enumerate(pictures):
            image = ImageOps.contain(Image.fromarray(pixels), (_SHOWN, _SHOWN))
            left, top = ((_CELL - side) // 2 for side in image.size)
            canvas.paste(image, (_CELL * column + left, _CELL * row + top))
    figure = Figure(figsize=(1.5 * columns + 1.6, 1.5 * rows + 0.7), layout="constrained")
    figure.suptitle(fill(title, 14 * columns), fontweight="bold")
    axes = figure.add_subplot()
    axes.imshow(canvas, extent=(0, columns, rows, 0))
    axes.set_xticks(0.5 + np.arange(len(heads)), heads, fontsize=10)
    axes.set_yticks(0.5 + np.arange(rows), map(_plain, names), ha="right", fontsize=10)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _plain(name: str) -> str:
    """A class name, cut where a line of it is very long, that Matplotlib does not take for a formula."""
    lines = (line if len(line) <= _NAME else f"{line[: _NAME - 1]}…" for line in name.split("\n"))
    return "\n".join(lines).replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it
        figure.savefig(partial, dpi=110, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
