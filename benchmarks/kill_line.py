"""The line killed with SIGKILL at random moments, run again until it ends, and held against an undisturbed one.

    uv run python -m benchmarks.kill_line [--rounds 100] [--at-once 2] [--seed 0]

A round begins where a stage drawn by its share of the line's time begins, with the outputs of the stages before it and
nothing else: no cache of DVC's runs, none of ours, no MLflow store. At a moment drawn from that stage's time one of
three is killed: the stage's process, `dvc` alone, so that the stage is orphaned, or both and all that they started, as
a power cut would. Then `dvc repro` is repeated until it ends with 0. Whatever the outputs then differ in from those of
the undisturbed line is listed, and so is every epoch's metric that MLflow has twice, or lacks.

The rounds stand in `benchmarks/results/kill_line.json`, their table in `docs/kill_line.md`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track
from ruamel.yaml import YAML

from tests.project import Project, begin
from tests.repro import COMPARED, Repro, Target, differences
from transferline.artifacts import write_json, write_text
from transferline.tracking.lineage import STAGES

RESULTS = Path("benchmarks/results/kill_line.json")
PAGE = Path("docs/kill_line.md")
TARGETS: tuple[Target, ...] = ("stage", "dvc", "all")
MOST_REPEATS = 5
IMAGES = 24  # of each class
END = 1.5  # seconds in which dvc has nothing left to do
PARAMS: dict[str, dict[str, Any]] = {
    "model": {"backbone": "efficientnet_lite0", "input_size": 64},
    "augment": {"views": 1, "audit": "off"},
    "tune": {
        "trials": 3,
        "search": {
            "batch_size": [8, 16],
            "lr": {"low": 1e-3, "high": 5e-3},
            "freeze_depth": {"low": 4, "high": 6},
        },
        "start": {"lr": 2e-3, "batch_size": 16, "freeze_depth": 5},
    },
    "train": {"epochs": 3, "early_stopping": None, "checkpoint_share": 1.0},
    "finetune": {"epochs": 6, "early_stopping": None, "ema": 0.9, "checkpoint_share": 1.0},
    "evaluate": {"bootstrap": 100},
    "export": {"batch_size": 4, "latency_repeats": 3, "int8_trials": 2},
    "register": {"min_macro_f1": 0.0, "max_ece": 1.0},
}


@dataclass
class Round:
    """What was done to one line, and what came of it."""

    number: int
    stage: str  # that was running when the blow fell
    target: str
    moment: float  # seconds since that stage began
    repeats: int = 0  # of `dvc repro`, after the blow
    resumed: bool = False  # from a checkpoint, or in a study that had begun
    differences: list[str] = field(default_factory=list)


def make_images(folder: Path) -> None:
    """Noise in which each of three classes has one channel a little brighter: something, but not all, can be learnt."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = rng.integers(0, 200, (rng.integers(60, 90), rng.integers(60, 90), 3), dtype=np.uint8)
            pixels[..., channel] += 16
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")


def rewind(project: Path, stage: str) -> None:
    """Leave a finished line as it was before `stage` began, with nothing that could spare it work."""
    yaml = YAML()
    later = STAGES[STAGES.index(stage) :]
    declared = yaml.load(project / "dvc.yaml")["stages"]
    for name in later:
        for out in _outs(declared[name]):
            place = project / out
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    lock = yaml.load(project / "dvc.lock")
    lock["stages"] = {name: value for name, value in lock["stages"].items() if name not in later}
    if lock["stages"]:
        yaml.dump(lock, project / "dvc.lock")
    else:
        (project / "dvc.lock").unlink()
    for left in (".cache", "mlruns", ".dvc/cache/runs", ".dvc/tmp"):
        shutil.rmtree(project / left, ignore_errors=True)


def _outs(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def play(number: int, whole: Path, began: Sequence[tuple[str, float]], seconds: float, seed: int) -> Round:
    """One round, in a copy of the undisturbed line.

    Args:
        number: of the round, which the draws come from.
        whole: the undisturbed line's project.
        began: its stages, and the seconds after which each began.
        seconds: that it took.
        seed: of the draws.
    """
    rng = np.random.default_rng((seed, number))
    moment = float(rng.uniform(began[0][1], seconds - END))
    stage, start = [entry for entry in began if entry[1] <= moment][-1]
    target = TARGETS[rng.integers(len(TARGETS))]
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        subprocess.run(["cp", "-a", whole, project.root], check=True)
        rewind(project.root, stage)
        line = Repro(project)
        assert line.reaches(stage), line.text
        time.sleep(moment - start)
        struck, since = line.began[-1]
        result = Round(number, struck, target, round(time.perf_counter() - line.started - since, 2))
        line.strike(target)
        finish(result, project)
        if not result.differences:
            result.differences = differences(project.root, whole)
        return result


def finish(result: Round, project: Project) -> None:
    """Repeat `dvc repro` until it ends with 0, and count."""
    while result.repeats < MOST_REPEATS:
        result.repeats += 1
        line = Repro(project)
        code = line.ends()
        result.resumed = result.resumed or "resumed" in line.text or "continues after" in line.text
        if code == 0:
            return
    result.differences = [f"it did not end: {line.text[-1000:]}"]


def table(rounds: Sequence[Round]) -> str:
    """The rounds by the stage that they struck, as Markdown."""
    lines = [
        "| struck in | rounds | stage killed | `dvc` killed | all killed | seconds into the stage | repeats needed "
        "| went on from what was saved | differences |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in (*STAGES, "all"):
        own = [one for one in rounds if name in (one.stage, "all")]
        if own:
            killed = " | ".join(str(sum(one.target == target for one in own)) for target in TARGETS)
            moments, repeats = [one.moment for one in own], [one.repeats for one in own]
            needed = f"{min(repeats)}" if min(repeats) == max(repeats) else f"{min(repeats)} to {max(repeats)}"
            resumed = sum(one.resumed for one in own)
            unlike = "; ".join(f"round {one.number}: {', '.join(one.differences)}" for one in own if one.differences)
            lines.append(
                f"| {name} | {len(own)} | {killed} | {min(moments):.1f} to {max(moments):.1f} | {needed} | {resumed}"
                f" | {unlike or 'none'} |"
            )
    return "\n".join(lines)


def write(rounds: Sequence[Round], seconds: float, seed: int) -> None:
    """Save the rounds and the page."""
    known = {"seed": seed, "undisturbed_seconds": round(seconds, 1), "rounds": [asdict(one) for one in rounds]}
    write_json(RESULTS, known)
    compared = ", ".join(f"`{path}`" for path in COMPARED)
    description = (__doc__ or "").split("\n\n")[2]
    write_text(
        PAGE,
        "# The line, killed\n\n"
        f"Made by `uv run python -m benchmarks.kill_line --rounds {len(rounds)} --seed {seed}`; each round is in"
        f" `{RESULTS}`.\n\n{description}\n\nCompared byte for byte, ids aside: {compared}."
        f" An undisturbed line took {seconds:.0f} s.\n\n{table(rounds)}\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("kill_line: an undisturbed line first", flush=True)
        whole = begin(Path(folder), make_images, PARAMS)
        line = Repro(whole)
        if line.ends():
            sys.exit(f"the undisturbed line failed:\n{line.text}")
        seconds = time.perf_counter() - line.started
        with ThreadPoolExecutor(options.at_once) as pool:
            played = pool.map(
                lambda number: play(number, whole.root, line.began, seconds, options.seed), range(1, options.rounds + 1)
            )
            rounds = list(track(played, description="rounds", total=options.rounds))
    write(rounds, seconds, options.seed)
    print(table(rounds))
    unlike = sum(bool(one.differences) for one in rounds)
    print(f"kill_line: {len(rounds)} rounds, {unlike or 'none'} with differences -> {PAGE}")


if __name__ == "__main__":
    main()
