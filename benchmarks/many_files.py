"""prepare's work on a folder of very many tiny files, and its search for near duplicates alone.

    uv run python -m benchmarks.many_files --folder FOLDER [--files 100000]

The table is printed, and stands in `benchmarks/results/many_files.json`.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transferline.artifacts import write_json
from transferline.data import hamming, manifest, reports, sources
from transferline.sections import Prepare, Split

RESULTS = Path("benchmarks/results/many_files.json")
CLASSES, SIDE = 10, 24
BITS = Prepare().near_duplicate_bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder, or one that this made before")
    given = parser.parse_args()
    root = given.folder / "images"
    make(root, given.files)
    rows: dict[str, float] = {}
    layout = timed(rows, "listing the folder, and looking for what DVC cannot hash", lambda: sources.scan(root))
    build = partial(manifest.build, layout, Split(), Prepare(min_side=SIDE), 42)
    prepared = timed(rows, "decoding, hashing, near duplicates, split", build)
    write = partial(reports.write_prepare, prepared, root, given.folder / "reports")
    timed(rows, "reports and pictures", write)
    for name, hashes in cases(given.files).items():
        timed(rows, f"near duplicates alone: {name}", partial(hamming.clusters, hashes, BITS))
    of = {"prepare": resource.RUSAGE_SELF, "largest worker": resource.RUSAGE_CHILDREN}
    memory = {name: round(resource.getrusage(who).ru_maxrss / 1024) for name, who in of.items()}
    write_json(RESULTS, {"files": given.files, "seconds": rows, "memory_mb": memory})
    print("| step | seconds |\n| --- | --- |")
    print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in rows.items()))
    print(f"many_files: {given.files} files, memory in MB: {memory} -> {RESULTS}")


def make(root: Path, count: int) -> None:
    """Noise of 24 pixels a side."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = root / f"class{index % CLASSES}" / f"{index:06}.png"
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)


def cases(count: int) -> dict[str, hamming.Hashes]:
    """Random hashes; a fifth, or all, in one bucket of a band and none near each other; a fifth near each other."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**64, count, dtype=np.uint64)
    bucket, close = random.copy(), random.copy()
    bucket[: count // 5] &= ~np.uint64(0x1FFF)
    close[: count // 5] = rng.permutation(1 << 15)[: count // 5]
    return {
        "random": random,
        "a fifth in one bucket": bucket,
        "all in one bucket": random & ~np.uint64(0x1FFF),
        "a fifth near each other": close,
    }


def timed(rows: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    rows[name] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    main()
