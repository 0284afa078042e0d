"""`transferline predict` against a loop over onnxruntime with Pillow, on images of one size and of many.

    uv run python -m benchmarks.predict --folder FOLDER [--images 1000] [--rounds 5] [--memory 1000 10000]

The model is models/onnx/model.onnx, the images are the sample's; FOLDER is for what is made from them. The sides run
in turns, each in a process of its own, which is timed from before it loads the model until all is answered; ours also
writes a file. The tables are printed, and stand in
`benchmarks/results/predict.json`.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from transferline import cores
from transferline.artifacts import ONNX, SAMPLE, write_json
from transferline.deploy import inputs, prediction, streaming
from transferline.deploy.predictor import Predictor

RESULTS = Path("benchmarks/results/predict.json")
SCALES = (0.64, 0.8, 0.96, 1.0, 1.2, 1.28, 1.6, 2.0)
SIZES = [(scale * wide, scale * high) for scale in SCALES for wide, high in ((1, 1), (0.75, 1), (1, 0.75))]
BATCH = 32
SAME = 0.999  # share of images that every side must give the class that the first gave


def plain(model: Path, folder: Path) -> list[str]:
    """As one writes it: one image after the other, a session with its defaults."""
    session, classes = opened(model)
    return [
        classes[session.run(["probabilities"], {"images": pixels(path)[np.newaxis]})[0][0].argmax()]
        for path in files(folder)
    ]


def batched(model: Path, folder: Path) -> list[str]:
    """A stronger one: batches of one size."""
    session, classes = opened(model)
    found: dict[Path, str] = {}
    waiting: dict[tuple[int, ...], dict[Path, np.ndarray]] = defaultdict(dict)

    def run(batch: dict[Path, np.ndarray]) -> None:
        (rows,) = session.run(["probabilities"], {"images": np.stack(list(batch.values()))})
        found.update(zip(batch, (classes[index] for index in rows.argmax(axis=1)), strict=True))
        batch.clear()

    for path in files(folder):
        image = pixels(path)
        batch = waiting[image.shape]
        batch[path] = image
        if len(batch) == BATCH:
            run(batch)
    for batch in filter(None, waiting.values()):
        run(batch)
    return [found[path] for path in files(folder)]


def ours(model: Path, folder: Path) -> list[str]:
    """The command, with its defaults and a file."""
    output = folder.parent / f"{folder.name}.jsonl"
    assert prediction.run(str(model), [str(folder)], prediction.Options(output=output))
    with output.open(encoding="utf-8") as stream:
        return [json.loads(line)["class"] for line in stream]


def engine(batch_size: int, threads: int, runs: int) -> Callable[[Path, Path], list[str]]:
    """The command's engine under another plan; `threads` are those of one run."""

    def side(model: Path, folder: Path) -> list[str]:
        predictor = Predictor(model, threads=threads, spinning=False)
        plan = streaming.Plan(batch_size, cores.usable() + 1, runs)
        return [out.ranked[0][0] for _, out in streaming.answered(predictor, inputs.expand([str(folder)]), plan)]

    return side


CORES = cores.usable()
SIDES: dict[str, Callable[[Path, Path], list[str]]] = {
    "plain loop": plain,
    f"plain loop, batches of {BATCH}": batched,
    "transferline predict": ours,
}
PLANS: dict[str, Callable[[Path, Path], list[str]]] = {
    **{f"a run a core, {size} images each": engine(size, 1, CORES) for size in (1, 2, 4, 8, 32)},
    **{f"one run on all cores, {size} images": engine(size, CORES, 1) for size in (1, 8, 32)},
}


def opened(model: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["classes"])


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def child(name: str, model: Path, folder: Path) -> None:
    """What one side does, as JSON on the last line."""
    start = time.perf_counter()
    classes = (SIDES | PLANS)[name](model, folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "peak_memory_mb": peak, "classes": classes}))


def ran(name: str, model: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.predict", "--child", name, "--model", str(model)]
    done = subprocess.run([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turns(names: list[str], model: Path, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Images a second of each side in each round; every second round goes through the sides backwards."""
    speeds: dict[str, list[float]] = {name: [] for name in names}
    answers: list[str] | None = None
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            found = ran(name, model, folder)
            answers = answers or found["classes"]
            same = sum(map(str.__eq__, answers, found["classes"])) / len(answers)
            assert len(found["classes"]) == len(answers), name
            assert same > SAME, f"{name} gives {same:.2%} of the images the same class"
            speeds[name].append(len(answers) / found["seconds"])
            print(f"  {folder.name}: {name}: {speeds[name][-1]:.0f} images/s", file=sys.stderr, flush=True)
    return speeds


def make(folder: Path, sample: list[Path], *, mixed: bool) -> Path:
    """Links to the sample's images, or images of 24 sizes made from them."""
    for index, source in enumerate(sample):
        target = folder / f"{index:05}.jpg"
        if target.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if not mixed:
            target.symlink_to(source.absolute())
            continue
        with Image.open(source) as image:
            wide, high = SIZES[index % len(SIZES)]
            size = round(image.width * wide), round(image.height * high)
            image.convert("RGB").resize(size).save(target, quality=95)
    return folder


def spread(sample: Path, count: int) -> Iterator[Path]:
    """Images of all classes alike, again and again where there are too few."""
    found = files(sample)
    step = max(1, len(found) // count)
    return islice((path for _ in range(1 + count // len(found)) for path in found[::step]), count)


def table(speeds: dict[str, dict[str, list[float]]], against: str) -> str:
    lines = ["| images | | images/s: median (lowest to highest) | times the first |", "| --- | --- | --- | --- |"]
    for title, sides in speeds.items():
        for name, found in sides.items():
            ratio = median(a / b for a, b in zip(found, sides[against], strict=True))
            lines.append(
                f"| {title} | {name} | {median(found):.0f} ({min(found):.0f} to {max(found):.0f}) | {ratio:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder, or one that this made before")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10_000], help="files to measure peak memory at")
    parser.add_argument("--model", type=Path, default=ONNX)
    parser.add_argument("--sample", type=Path, default=SAMPLE)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.model, given.folder)
        return
    sample = list(spread(given.sample, given.images))
    one = make(given.folder / f"one{given.images}", sample, mixed=False)
    mixed = make(given.folder / f"mixed{given.images}", sample, mixed=True)
    folders = {"one size": one, "24 sizes": mixed}
    speeds = {title: in_turns(list(SIDES), given.model, folder, given.rounds) for title, folder in folders.items()}
    rounds = min(2, given.rounds)
    plans = {title: in_turns(list(PLANS), given.model, folder, rounds) for title, folder in folders.items()}
    memory = {}
    for count in given.memory:
        folder = make(given.folder / f"many{count}", list(spread(given.sample, count)), mixed=False)
        memory[count] = ran("transferline predict", given.model, folder)["peak_memory_mb"]
    machine = {"cores": CORES, "processor": platform.processor() or platform.machine()}
    write_json(
        RESULTS,
        {"images": given.images, "speeds": speeds, "plans": plans, "peak_memory_mb": memory, "machine": machine},
    )
    print(table(speeds, "plain loop"), table(plans, next(iter(PLANS))), sep="\n\n")
    print(f"\npeak memory of predict in MB, by files: {memory}; {CORES} cores -> {RESULTS}")


if __name__ == "__main__":
    main()
