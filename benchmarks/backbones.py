"""The line on the sample for several backbones and seeds: what each is worth, what it costs, how fast it is deployed.

    uv run python -m benchmarks.backbones [--backbones NAME ...] [--seeds SEED ...] [--again]

Each line is `dvc repro` from prepare on, in a copy of the project, with the committed parameters but for the backbone,
the seed (of the split, too), `tune.trials: 0` (all train from `tune.start`) and `augment.audit: off`. Lines that
`benchmarks/results/backbones.json` has already are not run again unless `--again` is given. Where a machine is shared,
the fastest of the seeds says best what a line costs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.project import Project, copy_project, set_params
from transferline.artifacts import read_json, write_json

RESULTS = Path("benchmarks/results/backbones.json")
BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SEEDS = (42, 43, 44)
_HEADING = (
    "| backbone | seed | macro-F1 on test (95 % interval) | accuracy | minutes "
    "| ONNX, ms an image alone | ms a batch of 32 | largest difference of a probability |"
)


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True)


def run_line(project: Path, backbone: str, seed: int) -> dict[str, Any]:
    """One row: the figures of evaluate and export, and the seconds from prepare to register."""
    changes = {"seed": seed, "model": {"backbone": backbone}, "tune": {"trials": 0}}
    set_params(project / "params.yaml", {**changes, "augment": {"audit": "off"}})
    start = time.perf_counter()
    dvc(project, "repro", "--force", "--downstream", "prepare")
    seconds = time.perf_counter() - start
    metrics = read_json(project / "reports/evaluate/metrics.json")
    latency = {row["batch_size"]: row for row in read_json(project / "reports/export/latency.json")["batches"]}
    return {
        "backbone": backbone,
        "seed": seed,
        "macro_f1": metrics["macro_f1"],
        "interval": metrics["intervals"]["macro_f1"],
        "accuracy": metrics["accuracy"],
        "images": metrics["images"],
        "seconds": seconds,
        "onnx_seconds": {str(size): row["onnx_median"] for size, row in latency.items()},
        "parity": read_json(project / "reports/export/parity.json")["max_difference"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [_HEADING, "| --- " * _HEADING.count(" | ") + "| --- |"]
    for row in rows:
        low, high = row["interval"]
        alone, batch = (1000 * row["onnx_seconds"][size] for size in ("1", "32"))
        lines.append(
            f"| {row['backbone']} | {row['seed']} | {row['macro_f1']:.3f} ({low:.3f} to {high:.3f})"
            f" | {row['accuracy']:.3f} | {row['seconds'] / 60:.1f} | {alone:.0f} | {batch:.0f} | {row['parity']:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--again", action="store_true", help="run lines whose results are there, too")
    options = parser.parse_args()
    done = {(row["backbone"], row["seed"]): row for row in (read_json(RESULTS) if RESULTS.exists() else [])}
    wanted = [(backbone, seed) for seed in options.seeds for backbone in options.backbones]
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        Project(Path(folder)).git("init", "--quiet")
        dvc(Path(folder), "repro", "fetch")
        for number, (backbone, seed) in enumerate(wanted, 1):
            if options.again or (backbone, seed) not in done:
                print(f"backbones: line {number} of {len(wanted)}: {backbone}, seed {seed}", flush=True)
                done[backbone, seed] = run_line(Path(folder), backbone, seed)
                write_json(RESULTS, [done[key] for key in sorted(done)])
    print(table([done[key] for key in sorted(wanted)]))
    print(f"backbones: {len(wanted)} lines -> {RESULTS}")


if __name__ == "__main__":
    main()
