"""prepare's work on a folder of very many tiny files, and its search for near duplicates alone.

python -m benchmarks.many_files --files 100000 --folder /tmp/many
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transferline.data import hamming, manifest, reports, sources
from transferline.sections import Prepare, Split

CLASSES, SIDE = 10, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder, or one that this made before")
    given = parser.parse_args()
    root = given.folder / "images"
    make(root, given.files)
    rows: dict[str, float] = {}
    layout = timed(rows, "list", lambda: sources.scan(root))
    prepared = timed(rows, "build", lambda: manifest.build(layout, Split(), Prepare(min_side=16, exclude=None), 42))
    timed(rows, "reports", lambda: reports.write_prepare(prepared, root, given.folder / "reports"))
    for name, hashes in cases(given.files).items():
        timed(rows, f"duplicates: {name}", partial(hamming.clusters, hashes, 4))
    of = {"parent": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    rows |= {f"{name}_mb": resource.getrusage(who).ru_maxrss / 1024 for name, who in of.items()}
    print(json.dumps({name: round(value, 1) for name, value in rows.items()}, indent=2))


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
    """Random hashes; and a fifth of them alike: in one bucket of four bands out of five, or near each other."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**64, count, dtype=np.uint64)
    bucket, close = random.copy(), random.copy()
    bucket[: count // 5] &= ~np.uint64(0x1FFF)
    close[: count // 5] = rng.permutation(1 << 15)[: count // 5]
    return {"random": random, "a fifth in one bucket": bucket, "a fifth near each other": close}


def timed(rows: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    rows[f"{name}_s"] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    main()
