"""Tables on the terminal, for predictions and plans."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

if TYPE_CHECKING:
    from transferline.deploy.catalogue import Block, Entry  # for which predict has no use, nor for the next
    from transferline.deploy.plan import Plan

_UNFOLDED = 10_000  # columns


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a heading; a column whose name begins with > is aligned to the right. Nothing is cut off."""
    table = Table(header_style="bold")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    # A name may hold what rich would take for markup; only on a terminal are long names folded.
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def print_plan(plan: "Plan", root: Path) -> None:
    """Print what `transferline check` found."""
    kind = "label" if plan.labels else "class"
    held = f"with {len(plan.classes)} labels ({plan.labels})" if plan.labels else f"in {len(plan.classes)} classes"
    print(f"params.yaml is valid; {root} holds {plan.images} files {held}")
    print_table(
        (kind, ">files", ">share"),
        [(name, count, f"{count / plan.images:.1%}") for name, count in plan.classes.items()],
    )
    origin = (
        f"from {plan.labels or 'the folder'}'s own split"
        if plan.own_split
        else "by shares; near duplicates stay together"
    )
    splits = ", ".join(f"{count} {name}" for name, count in plan.splits.items())
    print(f"split: {splits} ({origin})\n")
    print_table(
        ("on disk", ">size"),
        [
            ("the images", decimal(plan.dataset_bytes)),
            (f"arrays that augment writes, {plan.input_size} x {plan.input_size} pixels", decimal(plan.array_bytes)),
            ("free", decimal(plan.free_bytes)),
        ],
    )
    print_table(
        ("stage", "images through the network", ">forward only", ">forward and backward"),
        [(work.stage, work.how, f"{work.forward:,}", f"{work.trained:,}") for work in plan.work],
    )
    for warning in plan.warnings:
        print(f"warning: {warning}")


def print_backbones(entries: "Iterable[Entry]") -> None:
    """Print the catalogue; counts are of one image at the backbone's own input size."""
    columns = ("backbone", "family", ">blocks", ">Mparams", ">GMACs", ">input", ">features", ">top-1")
    rows = [
        (
            found.name,
            found.family,
            found.blocks,
            f"{found.parameters / 1e6:.1f}",
            f"{found.multiply_adds / 1e9:.2f}",
            found.input_size,
            found.feature_dim,
            "" if found.top1 is None else f"{found.top1:.1f}",
            "yes" if found.here else "",
            found.source,
            found.licence,
        )
        for found in entries
    ]
    print_table((*columns, "here", "weights", "licence"), rows)
    print("GMACs: 10^9 multiply-adds (FLOPs are twice as many) for one image of the input size, in pixels.")
    print("Without the library's classification layers. top-1: on ImageNet, as the library states it, in percent.")
    print(
        "here: the weights are on this machine. Any model of timm's is `timm/NAME`; its licence is as timm states it."
    )


def print_blocks(blocks: "Iterable[Block]") -> None:
    """Print the blocks of one backbone: what `freeze_to` and `freeze_depth` mean there."""
    rows = [
        (
            block.name,
            block.depth,
            f"{block.parameters:,}",
            f"{block.multiply_adds / 1e6:,.1f}",
            " x ".join(map(str, block.shape)),
        )
        for block in blocks
    ]
    print_table(("freeze_to", ">freeze_depth", ">parameters", ">million multiply-adds", ">gives"), rows)
