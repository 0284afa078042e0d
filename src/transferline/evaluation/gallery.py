"""Galleries of images: the mistakes on the test split, and the labels that may be wrong."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transferline import labelsets
from transferline.artifacts import Arrays, SplitName
from transferline.evaluation.label_errors import LabelErrors
from transferline.evaluation.outcome import Outcome
from transferline.evaluation.pictures import INK, MUTED, NONE, RED, message, short

Pixels = npt.NDArray[np.uint8]

CAPTION_LENGTH = 18  # characters of a class name that a tile has room for
COLUMNS = 6


class Tile(NamedTuple):
    """An image uint8 [S, S, 3], what stands above it, and in red below it."""

    image: Pixels
    above: str
    below: str


def draw_mistakes(outcome: Outcome, images: Pixels, limit: int) -> Figure:
    """The most confident mistakes, at most `limit`; `images` is uint8 [N, S, S, 3]."""
    total, rows = len(outcome.mistakes), outcome.mistakes[:limit]
    tested = f"{len(outcome.labels)} test images"
    if not total:
        return message(f"no mistakes on {tested}")
    if not len(rows):
        return message(f"mistakes on {tested}: {total}, none shown (evaluate.gallery is 0)")
    tiles = [
        Tile(
            images[row],
            _caption(outcome.names(outcome.members[row])),
            f"{_caption(outcome.names(outcome.calls[row]))}  {outcome.confidences[row]:.1%}",
        )
        for row in rows
    ]
    return draw(tiles, f"{len(rows)} of {total} mistakes on {tested}, the most confident first")


def draw_label_errors(errors: LabelErrors | None, splits: Mapping[SplitName, Arrays], limit: int) -> Figure:
    """The suspected label errors, at most `limit`: above each image its label, below it what it looks like."""
    if errors is None:
        return message("label errors were not looked for (evaluate.label_errors is 0)")
    suspected = errors.suspected
    if not suspected:
        return message(f"no suspected label error among {len(errors.ranked)} images")
    multilabel = splits["train"].multilabel
    tiles = [
        Tile(
            splits[one.split].images[one.row, 0],
            _caption(labelsets.names_of(one.given, multilabel)),
            _caption(labelsets.names_of(one.suggested, multilabel)),
        )
        for one in suspected[:limit]
    ]
    return draw(tiles, f"{len(tiles)} of {len(suspected)} suspected label errors, the least credible label first")


def draw(tiles: Sequence[Tile], title: str) -> Figure:
    """At least one tile, numbered from 1."""
    lines = -(-len(tiles) // COLUMNS)
    figure = Figure(figsize=(1.9 * COLUMNS, 2.35 * lines + 0.5), layout="constrained")
    figure.suptitle(title, color=INK, fontsize=13)
    grid = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for number, (axes, tile) in enumerate(zip(grid, tiles, strict=False), start=1):
        _draw_tile(axes, tile, number)
    for axes in grid[len(tiles) :]:
        axes.set_axis_off()
    return figure


def _draw_tile(axes: Axes, tile: Tile, number: int) -> None:
    axes.imshow(tile.image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(MUTED)
    axes.set_title(f"{number}. {tile.above}", color=INK, fontsize=9)
    axes.set_xlabel(tile.below, color=RED, fontsize=9)


def _caption(names: Sequence[str]) -> str:
    """A class name cut to what fits, or a set of them in two lines."""
    if len(names) == 1:
        return short(names[0], CAPTION_LENGTH)
    return fill(short(", ".join(names) or NONE, 2 * CAPTION_LENGTH), CAPTION_LENGTH + 4)
