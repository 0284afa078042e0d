"""What it costs that nothing is lost: hashing, checkpoints, calls through the spool, syncing files to disk.

    uv run python -m benchmarks.overhead

Each stage of the default line is run, in a copy of the project, with the functions that do these things timed: the
seconds in them are part of the stage's own. Both stand in `benchmarks/results/overhead.json`.
"""

import argparse
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.project import copy_project
from transferline.artifacts import write_json
from transferline.tracking import resume
from transferline.tracking.lineage import STAGES

RESULTS = Path("benchmarks/results/overhead.json")
TIMED = {
    "hashing": ("transferline.tracking.checks:input_hashes", "transferline.tracking.checks:output_hashes"),
    "checkpoints": (
        "transferline.training.resume:Resume._find",
        "transferline.training.resume:Resume._save",
        "transferline.training.resume:Resume.finish",
    ),
    "calls to MLflow through the spool": ("transferline.tracking.client:Client._write",),
    "of these, MLflow itself": ("transferline.tracking.calls:send",),
    "syncing to disk": ("os:fsync",),
}


def timed(function: Callable[..., Any], label: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds[label] += time.perf_counter() - start

    return run


def run_stage(stage: str, report: Path) -> None:
    """In this process; write the seconds by kind."""
    seconds: dict[str, float] = defaultdict(float)
    for label, names in TIMED.items():
        for name in names:
            module, _, path = name.partition(":")
            if label == "checkpoints" and stage not in resume.STAGES:
                continue
            *owners, last = path.split(".")
            owner: Any = importlib.import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, last, timed(getattr(owner, last), label, seconds))
    try:
        runpy.run_module(f"pipeline.{stage}", run_name="__main__")
    finally:
        write_json(report, dict(seconds))


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each stage of the line in that copy of the project."""
    rows = []
    for stage in STAGES:
        report = folder.parent / f"{stage}.json"
        command = [sys.executable, "-m", "benchmarks.overhead", "--stage", stage, "--report", str(report)]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": "src"}, check=True)
        seconds = time.perf_counter() - start
        rows.append({"stage": stage, "seconds": seconds, **json.loads(report.read_text(encoding="utf-8"))})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows and their sum as Markdown."""
    whole = {name: sum(row.get(name, 0.0) for row in rows) for name in ("seconds", *TIMED)}
    lines = [f"| stage | seconds | {' | '.join(TIMED)} |", "| --- | --- |" + " --- |" * len(TIMED)]
    lines += [
        f"| {row['stage']} | {' | '.join(f'{row.get(name, 0.0):.2f}' for name in ('seconds', *TIMED))} |"
        for row in [*rows, {"stage": "all", **whole}]
    ]
    return "\n".join(lines)


def share(rows: list[dict[str, Any]]) -> float:
    """Of the line's time, what is spent so that nothing is lost."""
    whole = {name: sum(row.get(name, 0.0) for row in rows) for name in ("seconds", *TIMED)}
    spool = whole["calls to MLflow through the spool"] - whole["of these, MLflow itself"]
    return float((whole["hashing"] + whole["checkpoints"] + spool + whole["syncing to disk"]) / whole["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, help="run this stage here")
    parser.add_argument("--report", type=Path, help="where its seconds go")
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.report)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        copy_project(folder)
        rows = measure(folder)
    write_json(RESULTS, {"share": share(rows), "stages": rows})
    print(table(rows))
    print(f"overhead: {share(rows):.1%} of {sum(row['seconds'] for row in rows):.0f} s -> {RESULTS}")


if __name__ == "__main__":
    main()
