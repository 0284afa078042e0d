"""Trials per hour: a plain Lightning and Optuna loop, ours with the frozen blocks recomputed, ours behind the cache.

    uv run python -m benchmarks.embed_once [FOLDER] [--trials 20] [--epochs 5] [--whole 60]

Three lists of trials (rate x batch size x freeze depth), the same for all three sides, in one run: the head alone, the
last block, and depths drawn evenly. Sides take turns, trial kind by trial kind, so that all meet the same weather, in
processes made anew for each list, so that none profits from memory that another list has made room for. Of every kind
(freeze depth and batch size) some images are trained on first; where that says that a whole trial would take longer
than `--whole` seconds, its time is worked out from those steps, and it has no score, but for the trials that `--scored`
asks for: they are trained whole, scored, and their time goes for their kind.

Decoding into arrays and building the cache, from nothing, are counted in.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.sides import LABELS, Outcome, Remote, Side, Trial, remotes
from transferline import augmentation, config
from transferline.artifacts import write_manifest
from transferline.data import arrays, manifest, sources
from transferline.model import backbones

TITLES = ("head_only", "last_block", "mixed")


def lists(trials: int, depth: int, steps: int) -> dict[str, list[Trial]]:
    """The rate goes over a decade, the batch size takes turns, the mixed list goes round `steps` even depths."""
    rates = [3e-4 * 10 ** (number / max(trials - 1, 1)) for number in range(trials)]
    sizes = [(32, 64)[number % 2] for number in range(trials)]

    def at(depths: Sequence[int]) -> list[Trial]:
        return [Trial(*values) for values in zip(rates, sizes, depths, strict=True)]

    even = [round(number % steps * depth / max(steps - 1, 1)) for number in range(trials)]
    return {"head_only": at([depth] * trials), "last_block": at([depth - 1] * trials), "mixed": at(even)}


def prepare_data(root: Path, work: Path, backbone: str, seed: int) -> tuple[float, int, int]:
    """Manifest for all sides, arrays for ours; seconds and bytes of the arrays, images of train."""
    params = config.load("augment", "data", "prepare")
    rows = manifest.build(sources.scan(root), params.data.split, params.prepare, seed).rows
    write_manifest(rows, work / "manifest.parquet")
    views = augmentation.views(params.augment.views, sum(row.split == "train" for row in rows))
    policy = augmentation.starting_policy(params.augment.policy)
    recipe = arrays.Recipe(backbones.input_size(backbone), "squash", views, policy, seed)
    start = time.perf_counter()
    size = arrays.write(rows, root, recipe, None, work / "arrays")
    return time.perf_counter() - start, size, sum(row.split == "train" for row in rows)


def measure(trials: Sequence[Trial], benches: Mapping[str, Remote], limit: float) -> dict[str, Side]:
    """All three sides on one list, kind by kind in turns."""
    sides = {name: Side() for name in LABELS}
    cached, depths = sides["cached"], {trial.depth for trial in trials}
    cached.preparation, cached.disk = benches["cached"].call("prepare", depths)
    for kind in dict.fromkeys(trial.kind for trial in trials):
        of_kind = [trial for trial in trials if trial.kind == kind]
        for name, side in sides.items():
            estimate = benches[name].call("probe", of_kind[0])
            print(f"  depth {kind[0]}, batch {kind[1]}: {LABELS[name]}: {estimate:.1f} s a trial", flush=True)
            if estimate <= limit:
                side.outcomes |= {trial: benches[name].call("whole", trial) for trial in of_kind}
            else:
                side.outcomes |= dict.fromkeys(of_kind, Outcome(estimate, whole=False))
    return sides


def score(trials: Sequence[Trial], sides: Mapping[str, Side], benches: Mapping[str, Remote], wanted: int) -> None:
    """Train some trials of middling depth and rate whole; their time goes for what was worked out of their kind."""
    depths = sorted({trial.depth for trial in trials})
    at_depth = [trial for trial in trials if trial.depth == depths[len(depths) // 2]]
    for trial in sorted(at_depth, key=lambda trial: abs(at_depth.index(trial) - len(at_depth) // 2))[:wanted]:
        for name in ("plain", "cached"):
            outcomes = sides[name].outcomes
            if not outcomes[trial].whole:
                whole = benches[name].call("whole", trial)
                same = {other for other in trials if other.kind == trial.kind and not outcomes[other].whole}
                outcomes |= dict.fromkeys(same, Outcome(whole.seconds, whole=False)) | {trial: whole}
            print(f"  {LABELS[name]}: {trial}: {outcomes[trial]}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/sample"), help="of class folders")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--whole", type=float, default=60, help="seconds beyond which a trial is worked out, or 'inf'")
    parser.add_argument("--scored", type=int, default=1, help="trials of each list that are trained whole in any case")
    parser.add_argument("--lists", nargs="+", default=TITLES, choices=TITLES, help="other lists' results are kept")
    parser.add_argument("--depths", type=int, help="of the mixed list, evenly spaced; default: all")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    return options


def main() -> None:
    options = parse()
    print(f"embed_once: {options.trials} trials of {options.epochs} epochs, on {options.folder}", flush=True)
    depth = backbones.spec(options.backbone).depth
    given = lists(options.trials, depth, options.depths or depth + 1)
    cache = Path(".cache").resolve()
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch)
        decoding, size, images = prepare_data(options.folder, work, options.backbone, options.seed)
        for title in options.lists:
            print(f"{title}:", flush=True)
            with remotes(work, options) as benches:
                sides = measure(given[title], benches, options.whole)
                for name in ("recomputed", "cached"):
                    sides[name].preparation += decoding
                    sides[name].disk += size
                score(given[title], sides, benches, options.scored)
                peaks = {name: bench.call("peak") for name, bench in benches.items()}
            report.write({title: sides}, peaks, images * options.epochs, options)
    print(f"embed_once: -> {report.RESULTS}", flush=True)


if __name__ == "__main__":
    main()
