"""What `embed_once` found: tables on the terminal, everything as JSON."""

import argparse
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.sides import LABELS, Side

RESULTS = Path(__file__).parent / "results" / "embed_once.json"
Found = Mapping[str, Mapping[str, Side]]  # list -> side -> what it did


def write(found: Found, peaks: Mapping[str, int], images: int, options: argparse.Namespace) -> None:
    """Print the tables and save the figures; those of lists that were not run again are kept.

    Args:
        found: what was measured.
        peaks: bytes of memory of each side.
        images: those that a trial trains on, all epochs together.
        options: of the command line.
    """
    console = Console(width=150)
    console.print(_lists(found, images))
    if "mixed" in found:
        console.print(_depths(seconds_by_depth(found["mixed"])))
    print("peak memory: " + ", ".join(f"{LABELS[name]} {size / 1e9:.1f} GB" for name, size in peaks.items()))
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    ratios = {title: round(sides["cached"].per_hour / sides["plain"].per_hour, 2) for title, sides in found.items()}
    chosen = {key: str(value) for key, value in vars(options).items()} | {"folder": options.folder.name}
    raw = {
        title: {name: _raw(side) for name, side in sides.items()} | {"peak_memory_bytes": peaks, "options": chosen}
        for title, sides in found.items()
    }
    results = kept | {
        "ratios": kept.get("ratios", {}) | ratios,
        "lists": kept.get("lists", {}) | raw,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }
    if "mixed" in found:
        results["seconds_by_depth"] = seconds_by_depth(found["mixed"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"ratios, cached over plain, in trials per hour: {results['ratios']}", flush=True)


def seconds_by_depth(sides: Mapping[str, Side]) -> dict[int, dict[str, float]]:
    """Seconds a trial, preparation aside."""
    depths = sorted({trial.depth for trial in sides["cached"].outcomes})
    return {
        depth: {
            name: mean(outcome.seconds for trial, outcome in side.outcomes.items() if trial.depth == depth)
            for name, side in sides.items()
        }
        for depth in depths
    }


def _lists(found: Found, images: int) -> Table:
    heads = ("list", "side", "trials/h", "images/s", "GB disk", "best macro-F1", "same trials", "cached is faster by")
    table = Table(*heads, box=MARKDOWN)
    for title, sides in found.items():
        both = sides["plain"].scores.keys() & sides["cached"].scores.keys()
        for name, side in sides.items():
            scores = side.scores
            speed = len(side.outcomes) * images / side.seconds
            best = f"{max(scores.values()):.3f} (of {len(scores)})" if scores else "-"
            same = f"{max(scores[trial] for trial in both):.3f}" if both and both <= scores.keys() else "-"
            faster = sides["cached"].per_hour / side.per_hour
            cells = f"{side.per_hour:.1f}", f"{speed:.0f}", f"{side.disk / 1e9:.1f}", best, same, f"{faster:.1f}"
            table.add_row(title, LABELS[name], *cells)
    return table


def _depths(seconds: dict[int, dict[str, float]]) -> Table:
    table = Table("freeze depth", *(f"{label}, s a trial" for label in LABELS.values()), box=MARKDOWN)
    for depth, of_side in seconds.items():
        table.add_row(str(depth), *(f"{of_side[name]:.1f}" for name in LABELS))
    return table


def _raw(side: Side) -> dict[str, Any]:
    return {
        "trials_per_hour": side.per_hour,
        "preparation_seconds": side.preparation,
        "disk_bytes": side.disk,
        "best_macro_f1": max(side.scores.values(), default=None),
        "trials": [asdict(trial) | asdict(outcome) for trial, outcome in side.outcomes.items()],
    }
