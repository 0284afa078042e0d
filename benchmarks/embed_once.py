"""Trials per hour: a plain Lightning and Optuna loop, ours with the frozen blocks recomputed, ours behind the cache.

    uv run python -m benchmarks.embed_once [FOLDER] [--trials 20] [--epochs 5] [--whole 60]

Three lists of trials (rate x batch size x freeze depth), the same for all three sides, in one run: the head alone, the
last block, and depths drawn evenly. Each side lives in a process of its own, so that peak memory is its own; sides take
turns, trial kind by trial kind, so that all meet the same weather. Of every kind (freeze depth and batch size) some
images are trained on first; where that says that a whole trial would take longer than `--whole` seconds, its time is
worked out from those steps, and it has no score, but for the trials that `--scored` asks for.

Decoding into arrays and building the cache, from nothing, are counted in.
"""

import argparse
import json
import math
import os
import platform
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "embed_once.json"
TITLES = ("head_only", "last_block", "mixed")
SIDES = {"plain": "plain Lightning and Optuna", "recomputed": "ours, recomputed", "cached": "ours, cached"}
PROBE = 96  # images trained on to learn what a step costs


@dataclass(frozen=True)
class Trial:
    lr: float
    batch_size: int
    depth: int

    @property
    def kind(self) -> tuple[int, int]:
        """What decides the cost."""
        return self.depth, self.batch_size


@dataclass(frozen=True)
class Outcome:
    """Of one trial: seconds, whether it was trained whole, best macro-F1 on validation."""

    seconds: float
    whole: bool
    score: float | None = None


@dataclass
class Side:
    """What one side has done with one list."""

    preparation: float = 0.0  # seconds
    disk: int = 0  # bytes
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.preparation + sum(outcome.seconds for outcome in self.outcomes.values())

    @property
    def per_hour(self) -> float:
        return 3600 * len(self.outcomes) / self.seconds

    @property
    def best(self) -> float | None:
        return max((outcome.score for outcome in self.outcomes.values() if outcome.score is not None), default=None)


def lists(trials: int, depth: int, steps: int) -> dict[str, list[Trial]]:
    """The rate goes over a decade, the batch size takes turns, the mixed list goes round `steps` even depths."""
    rates = [3e-4 * 10 ** (number / max(trials - 1, 1)) for number in range(trials)]
    sizes = [(32, 64)[number % 2] for number in range(trials)]

    def at(depths: Sequence[int]) -> list[Trial]:
        return [Trial(*values) for values in zip(rates, sizes, depths, strict=True)]

    even = [round(number % steps * depth / max(steps - 1, 1)) for number in range(trials)]
    return {"head_only": at([depth] * trials), "last_block": at([depth - 1] * trials), "mixed": at(even)}


# --- in the process of a side -----------------------------------------------------------------------------------------


class Bench:
    """Data, network and cache of one side, made in its process."""

    def __init__(self, side: str, work: str, options: argparse.Namespace) -> None:
        warnings.filterwarnings("ignore")
        import logging

        from transferline.artifacts import read_arrays, read_manifest

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
        os.chdir(work)
        self.side, self.root, self.backbone = side, options.folder, options.backbone
        self.epochs, self.seed = options.epochs, options.seed
        rows = read_manifest(Path("manifest.parquet"))
        self.rows = {name: [row for row in rows if row.split == name] for name in ("train", "val")}
        self.behind: dict[int, Any] = {}
        if side != "plain":
            from transferline.artifacts import ModelCard
            from transferline.model import backbones, classifier
            from transferline.training.data import Splits

            spec = backbones.spec(self.backbone)
            hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
            self.splits = Splits(read_arrays("train", Path("arrays")), read_arrays("val", Path("arrays")), hashes)
            size = int(self.splits.train.images.shape[2])
            classes = self.splits.train.classes
            card = ModelCard(self.backbone, classes, size, "squash", list(spec.mean), list(spec.std), 0.2)
            self.net = classifier.build(card, "pretrained", self.seed)

    def prepare(self, depths: set[int]) -> tuple[float, int]:
        """Build the cache for these depths from nothing; seconds and bytes."""
        from transferline.model.activations import Cache
        from transferline.sections import Activations
        from transferline.training.data import embed

        shutil.rmtree("cache", ignore_errors=True)
        start = time.perf_counter()
        self.behind = embed(Cache(Activations(), Path("cache")), self.net, self.splits, depths)
        kept = sum(behind.train.entry.bytes + behind.val.entry.bytes for behind in self.behind.values())
        return time.perf_counter() - start, kept

    def probe(self, trial: Trial) -> float:
        """Seconds that the whole trial would take, from one epoch of some images."""
        clock, start = _clock(), time.perf_counter()
        count = min(PROBE, len(self.rows["train"]))
        self._train(trial, 1, count, [clock])
        step = mean(clock.steps[1:] or clock.steps)
        steps = math.ceil(len(self.rows["train"]) / trial.batch_size)
        return clock.first - start + self.epochs * (steps * step + clock.validation)

    def whole(self, trial: Trial) -> Outcome:
        start = time.perf_counter()
        score = self._train(trial, self.epochs, len(self.rows["train"]), [])
        return Outcome(time.perf_counter() - start, True, score)

    def peak(self) -> int:
        """Bytes, of this process and of the largest of its workers."""
        return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    def _train(self, trial: Trial, epochs: int, count: int, callbacks: list[Any]) -> float:
        if self.side == "plain":
            from benchmarks import plain

            train = self.rows["train"][:: max(len(self.rows["train"]) // count, 1)][:count]
            options = {"lr": trial.lr, "batch_size": trial.batch_size, "epochs": epochs, "seed": self.seed}
            return plain.train(
                train, self.rows["val"], self.root, self.backbone, depth=trial.depth, callbacks=callbacks, **options
            )
        return self._ours(trial, epochs, count, callbacks)

    def _ours(self, trial: Trial, epochs: int, count: int, callbacks: list[Any]) -> float:
        from copy import deepcopy

        from transferline.sections import Fit
        from transferline.training.fit import fit

        net = deepcopy(self.net)
        net.freeze(trial.depth)
        with redirect_stdout(StringIO()):
            history = fit(
                net,
                self.splits,
                Fit(epochs=epochs, early_stopping=None, backbone_lr_factor=0.8),
                lr=trial.lr,
                batch_size=trial.batch_size,
                seed=self.seed,
                recorder=_Nowhere(),
                label="",
                fraction=count / len(self.rows["train"]),
                behind=self.behind.get(trial.depth) if self.side == "cached" else None,
                callbacks=callbacks,
            )
        return max(epoch["val_macro_f1"] for epoch in history.epochs)


class _Nowhere:
    run_id = ""

    def log_metrics(self, *_: object, **__: object) -> None:
        """Forget them."""


def _clock() -> Any:
    """A Lightning callback that notes when training begins, what each step takes, and validation."""
    from pytorch_lightning.callbacks import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.first, self.last, self.began, self.validation = 0.0, 0.0, 0.0, 0.0
            self.steps: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.first = self.last = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            now = time.perf_counter()
            self.steps.append(now - self.last)
            self.last = now

        def on_validation_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_validation_end(self, *_: Any) -> None:
            self.validation = time.perf_counter() - self.began

    return Clock()


_benches: list[Bench] = []  # one a process


def _begin(side: str, work: str, options: argparse.Namespace) -> None:
    _benches.append(Bench(side, work, options))


def _call(name: str, *arguments: Any) -> Any:
    return getattr(_benches[0], name)(*arguments)


# --- the driver -------------------------------------------------------------------------------------------------------


def prepare_data(root: Path, work: Path, backbone: str, seed: int) -> tuple[float, int, int]:
    """Manifest for all sides, arrays for ours; seconds and bytes of the arrays, images of train."""
    from transferline.artifacts import write_manifest
    from transferline.config import load
    from transferline.data import arrays, manifest, sources
    from transferline.model import backbones

    params = load("augment", "data", "prepare")
    rows = manifest.build(sources.scan(root), params.data.split, params.prepare, seed).rows
    write_manifest(rows, work / "manifest.parquet")
    recipe = arrays.Recipe(backbones.input_size(backbone), "squash", params.augment.views, params.augment.policy, seed)
    start = time.perf_counter()
    size = arrays.write(rows, root, recipe, None, work / "arrays")
    return time.perf_counter() - start, size, sum(row.split == "train" for row in rows)


def measure(trials: Sequence[Trial], pools: dict[str, ProcessPoolExecutor], limit: float) -> dict[str, Side]:
    """All three sides on one list, kind by kind in turns."""
    sides = {name: Side() for name in SIDES}
    cached, depths = sides["cached"], {trial.depth for trial in trials}
    cached.preparation, cached.disk = pools["cached"].submit(_call, "prepare", depths).result()
    kinds = list(dict.fromkeys(trial.kind for trial in trials))
    for kind in kinds:
        of_kind = [trial for trial in trials if trial.kind == kind]
        for name, side in sides.items():
            estimate = pools[name].submit(_call, "probe", of_kind[0]).result()
            print(f"  depth {kind[0]}, batch {kind[1]}: {SIDES[name]}: {estimate:.1f} s a trial", flush=True)
            if estimate <= limit:
                side.outcomes |= {trial: pools[name].submit(_call, "whole", trial).result() for trial in of_kind}
            else:
                side.outcomes |= dict.fromkeys(of_kind, Outcome(estimate, whole=False))
    return sides


def score(trials: Sequence[Trial], side: Side, pool: ProcessPoolExecutor, wanted: int) -> None:
    """Train some trials of middling rate whole; their time takes the place of what was worked out."""
    middle = sorted(trials, key=lambda trial: abs(trials.index(trial) - len(trials) // 2))
    for trial in middle[:wanted]:
        if not side.outcomes[trial].whole:
            side.outcomes[trial] = pool.submit(_call, "whole", trial).result()
            print(f"  whole: {trial}: {side.outcomes[trial]}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/sample"), help="of class folders")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--whole", type=float, default=math.inf, help="seconds beyond which a trial is worked out")
    parser.add_argument(
        "--scored",
        type=int,
        default=1,
        help="trials of each list that are trained whole in any case, on the plain side too",
    )
    parser.add_argument("--lists", nargs="+", default=TITLES, choices=TITLES, help="other lists' results are kept")
    parser.add_argument("--depths", type=int, help="of the mixed list, evenly spaced; default: all")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    return options


def main() -> None:
    options = parse()
    print(f"embed_once: {options.trials} trials of {options.epochs} epochs, on {options.folder}", flush=True)
    from transferline.model import backbones

    with (
        tempfile.TemporaryDirectory(dir=".cache" if Path(".cache").is_dir() else None) as scratch,
        ExitStack() as processes,
    ):
        work = Path(scratch).resolve()
        decoding, array_bytes, images = prepare_data(options.folder, work, options.backbone, options.seed)
        found: dict[str, dict[str, Side]] = {}
        pools = {
            name: processes.enter_context(
                ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(name, str(work), options))
            )
            for name in SIDES
        }
        depth = backbones.spec(options.backbone).depth
        given = lists(options.trials, depth, options.depths or depth + 1)
        for title in options.lists:
            trials = given[title]
            print(f"{title}:", flush=True)
            found[title] = measure(trials, pools, options.whole)
            for name in ("recomputed", "cached"):
                found[title][name].preparation += decoding
                found[title][name].disk += array_bytes
            write(found, pools, images * options.epochs, options)
        for title in options.lists if options.scored else []:  # last, since it takes longest
            for name in ("cached", "plain"):
                score(given[title], found[title][name], pools[name], options.scored)
            write(found, pools, images * options.epochs, options)
    print(f"embed_once: -> {RESULTS}", flush=True)


def write(
    found: dict[str, dict[str, Side]],
    pools: dict[str, ProcessPoolExecutor],
    images: int,
    options: argparse.Namespace,
) -> None:
    """The table on the terminal, everything as JSON. `images` are those that a trial trains on."""
    peaks = {name: pool.submit(_call, "peak").result() for name, pool in pools.items()}
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"ratios": {}, "lists": {}}
    measured = {title: sides["cached"].per_hour / sides["plain"].per_hour for title, sides in found.items()}
    ratios = kept["ratios"] | {title: round(ratio, 2) for title, ratio in measured.items()}
    heads = ("list", "side", "trials/h", "images/s", "GB disk", "best macro-F1", "cached is faster by")
    table = Table(*heads, box=MARKDOWN)
    for title, sides in found.items():
        for name, side in sides.items():
            speed = len(side.outcomes) * images / side.seconds
            scored = sum(outcome.whole for outcome in side.outcomes.values())
            best = f"{side.best:.3f} (of {scored})" if side.best else "-"
            faster = sides["cached"].per_hour / side.per_hour
            cells = f"{side.per_hour:.1f}", f"{speed:.0f}", f"{side.disk / 1e9:.1f}", best, f"{faster:.1f}"
            table.add_row(title, SIDES[name], *cells)
    depths = Table("freeze depth", *(f"{label}, s a trial" for label in SIDES.values()), box=MARKDOWN)
    by_depth = _by_depth(found["mixed"]) if "mixed" in found else {}
    for depth, seconds in by_depth.items():
        depths.add_row(str(depth), *(f"{seconds[name]:.1f}" for name in SIDES))
    console = Console(width=150)
    console.print(table)
    console.print(depths)
    print("peak memory: " + ", ".join(f"{SIDES[name]} {size / 1e9:.1f} GB" for name, size in peaks.items()))
    chosen = {key: str(value) for key, value in vars(options).items()} | {"folder": options.folder.name}
    raw = {
        title: {name: _raw(side) for name, side in sides.items()} | {"peak_memory_bytes": peaks, "options": chosen}
        for title, sides in found.items()
    }
    results = {
        "ratios": ratios,
        "seconds_by_depth": by_depth or kept.get("seconds_by_depth", {}),
        "lists": kept["lists"] | raw,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"ratios, cached over plain, in trials per hour: {ratios}")


def _by_depth(sides: dict[str, Side]) -> dict[int, dict[str, float]]:
    """Seconds a trial, preparation aside."""
    depths = sorted({trial.depth for trial in sides["cached"].outcomes})
    return {
        depth: {
            name: mean(outcome.seconds for trial, outcome in side.outcomes.items() if trial.depth == depth)
            for name, side in sides.items()
        }
        for depth in depths
    }


def _raw(side: Side) -> dict[str, Any]:
    return {
        "trials_per_hour": side.per_hour,
        "preparation_seconds": side.preparation,
        "disk_bytes": side.disk,
        "best_macro_f1": side.best,
        "trials": [asdict(trial) | asdict(outcome) for trial, outcome in side.outcomes.items()],
    }


if __name__ == "__main__":
    main()
