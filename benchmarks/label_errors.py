"""How many wrong labels evaluate suspects, of some that are planted in the sample.

    uv run python -m benchmarks.label_errors [--planted 60] [--epochs 2 8] [--seed 0]

The line runs up to evaluate in a copy of the project, from `tune.start` and without the audit, on the sample with some
images moved into another class. The figures stand in `benchmarks/results/label_errors.json`.
"""

import argparse
import csv
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conformal_clip_data import textile_simulated_root

from tests.project import Project, begin
from transferline.artifacts import SPLITS, write_json

RESULTS = Path("benchmarks/results/label_errors.json")
FIRST = 12  # of the ranking: as many as the report shows


def plant(folder: Path, count: int, seed: int) -> set[str]:
    """Lay the sample out in `folder`, some images in another class than their own; the paths of these."""
    shutil.copytree(textile_simulated_root(), folder, ignore=shutil.ignore_patterns("*.csv", "*.py", "__*"))
    classes = sorted(place.name for place in folder.iterdir() if place.is_dir())
    files = sorted(folder.glob("*/*.jpg"))
    rng, planted = np.random.default_rng(seed), set()
    for number, file in enumerate(rng.choice(np.array(files, dtype=object), count, replace=False)):
        wrong = str(rng.choice([name for name in classes if name != file.parent.name]))
        target = folder / wrong / f"moved_{number:03}.jpg"
        file.rename(target)
        planted.add(target.relative_to(folder).as_posix())
    return planted


def judged(project: Project, planted: set[str]) -> list[dict[str, Any]]:
    """A row for each split, and for all, from what evaluate has ranked."""
    with (project.root / "reports/evaluate/label_errors.csv").open(encoding="utf-8", newline="") as stream:
        ranked = list(csv.DictReader(stream))
    first = sum(row["path"] in planted for row in ranked[:FIRST])
    rows = [_row(name, [row for row in ranked if row["split"] == name], planted) for name in SPLITS]
    return [*rows, _row("all", ranked, planted) | {"right_of_first_12": first}]


def _row(name: str, ranked: Iterable[Mapping[str, str]], planted: set[str]) -> dict[str, Any]:
    ranked = list(ranked)
    suspected = {row["path"] for row in ranked if row["suspected"] == "yes"}
    there = planted & {row["path"] for row in ranked}
    return {"split": name, "planted": len(there), "suspected": len(suspected), "right": len(suspected & there)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=60)
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 8], help="of finetuning, a line for each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    planted: set[str] = set()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        params: dict[str, dict[str, Any]] = {"tune": {"trials": 0}, "augment": {"audit": "off"}}
        project = begin(
            Path(folder), lambda images: planted.update(plant(images, options.planted, options.seed)), params
        )
        for epochs in options.epochs:
            print(f"label_errors: {options.planted} wrong labels, {epochs} epochs of finetuning", flush=True)
            project.dvc("exp", "run", "--set-param", f"finetune.epochs={epochs}", "evaluate")
            found[str(epochs)] = judged(project, planted)
    write_json(RESULTS, {"options": vars(options), "epochs": found})
    print("| epochs | split | planted | suspected | rightly |\n| --- | --- | --- | --- | --- |")
    for number, rows in found.items():
        for row in rows:
            print(f"| {number} | {row['split']} | {row['planted']} | {row['suspected']} | {row['right']} |")
    print(f"label_errors: -> {RESULTS}")


if __name__ == "__main__":
    main()
