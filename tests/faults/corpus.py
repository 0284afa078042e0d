"""The hostile corpus: which function makes the files of which row of docs/data.md."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Expected = dict[str, np.ndarray | None]  # paths that the case is about -> their pixels, where they are known
MAKERS: dict[str, Callable[[Path], Expected]] = {}  # row of the table -> function, given two classes, a and b


def case(make: Callable[[Path], Expected]) -> Callable[[Path], Expected]:
    """Register the function for the row of its name."""
    MAKERS[make.__name__.replace("_", "-")] = make
    return make


def picture(seed: int, side: int = 40) -> np.ndarray:
    """Coarse random patches, uint8 [side, side, 3]: no two look alike."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return patches.repeat(side // 8, axis=0).repeat(side // 8, axis=1)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
