"""How each variant of an exported model is made of the fp32 file and clean training images."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from transferline.artifacts import Arrays
from transferline.deploy import reduced
from transferline.deploy.variants import Maker
from transferline.sections import Export


def makers(options: Export, train: Arrays, seed: int) -> dict[str, Maker]:
    """By the name of the variant.

    Args:
        train: whose clean views int8 is calibrated on, and its loss is searched on.
        seed: of the draw of these.
    """

    def fp16(source: Path, target: Path) -> Mapping[str, Any]:
        with Console().status("converting to fp16"):
            return asdict(reduced.write_fp16(source, target))

    def int8(source: Path, target: Path) -> Mapping[str, Any]:
        made = reduced.write_int8(
            source,
            target,
            drawn(train, options.calibration_images, seed),
            max_loss=options.max_loss,
            trials=options.int8_trials,
            batch_size=options.batch_size,
            progress=track,
        )
        return asdict(made)

    return {"fp16": fp16, "int8": int8}


def drawn(train: Arrays, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """The clean views uint8 [M, S, S, 3] of at most `count` images, drawn at random, in the order of the arrays."""
    total = len(train.images)
    rows = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    return np.ascontiguousarray(train.images[np.sort(rows), 0])
