"""Where a killed stage goes on: a folder of its checkpoints and its run's id, under a key of all that went in.

The folder outlives whatever end but success. It lies outside DVC's outs, which DVC deletes before a stage runs.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, count
from pathlib import Path

from transferline import artifacts
from transferline.config import Params
from transferline.errors import UserError
from transferline.tracking import lineage, locks

STAGES = ("tune", "train", "finetune")  # the others take minutes at most, and begin again
LIBRARIES = ("torch", "torchvision", "timm", "pytorch-lightning")  # whose versions decide what a checkpoint means
KEPT_DAYS = 30  # nobody has asked again for what is older

_RUN = "run.json"


@dataclass(frozen=True)
class Kept:
    """A folder that this process alone has; `run_id` and `parent_id` are of the run to go on with, if any."""

    folder: Path
    run_id: str | None = None
    parent_id: str | None = None

    def remember(self, run_id: str, parent_id: str) -> None:
        artifacts.write_json(self.folder / _RUN, {"run_id": run_id, "parent_id": parent_id})


def key(stage: str, params: Params, inputs: Mapping[str, str]) -> str:
    """Hex digest of what decides a stage's outputs: parameters but for tracking's, inputs, code and libraries."""
    decides = {
        "stage": stage,
        "params": {name: value for name, value in params.resolved().items() if name != "tracking"},
        "inputs": dict(inputs),
        "code": lineage.code_key(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]


@contextmanager
def kept(stage: str, params: Params, inputs: Mapping[str, str]) -> Iterator[Kept | None]:
    """The folder to go on from, held while the block runs and removed if it succeeds; None for other stages.

    Two experiments with the same inputs never share one: the second takes the next, `<key>.2`.

    Args:
        inputs: path -> sha256 of what the stage reads.

    Raises:
        UserError: where it cannot be written.
    """
    if stage not in STAGES:
        yield None
        return
    home = artifacts.project_root() / ".cache" / "resume" / stage
    with ExitStack() as held:
        folder = _take(held, home, key(stage, params, inputs))
        _sweep(home)
        with locks.made(folder):
            pass
        yield Kept(folder, **_remembered(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _take(held: ExitStack, home: Path, name: str) -> Path:
    """Claim a folder of that key that nobody has: one that was left, else a new one."""
    left = sorted(path for path in home.glob(f"{name}*") if path.is_dir())
    new = (home / (name if number == 1 else f"{name}.{number}") for number in count(1))
    for folder in chain(left, new):
        with ExitStack() as attempt:
            if attempt.enter_context(locks.claimed(folder)):
                held.push(attempt.pop_all())
                return folder
    raise AssertionError("there is always a next number")


def _remembered(folder: Path) -> dict[str, str]:
    """The run of an earlier attempt; nothing where there was none, or the file is torn: then a run begins anew."""
    with suppress(UserError, TypeError, KeyError):
        values = artifacts.read_json(folder / _RUN)
        return {name: str(values[name]) for name in ("run_id", "parent_id")}
    return {}


def _sweep(home: Path) -> None:
    """Remove what was left so long ago that nobody will go on from it, unless it is in use."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for folder in [path for path in home.iterdir() if path.is_dir() and _last_touched(path) < oldest]:
        with locks.claimed(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


def _last_touched(folder: Path) -> float:
    with suppress(OSError):
        return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    return time.time()
