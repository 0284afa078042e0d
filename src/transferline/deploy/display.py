"""Tables on the terminal, for predictions and plans."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

if TYPE_CHECKING:
    from transferline.deploy.plan import Plan  # which predict has no use for

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
