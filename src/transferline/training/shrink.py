"""Training goes on where a batch does not fit into memory: in parts, whose gradients add up to the same step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from transferline.artifacts import read_json, write_json
from transferline.errors import UserError
from transferline.fitting import Fit
from transferline.model import memory
from transferline.model.classifier import Classifier
from transferline.training.data import Physical, whole
from transferline.training.fit import History, Recorder
from transferline.training.sampling import parts

_FILE = "physical.json"  # in the resume folder: a killed stage does not run into the same wall again


class Phase(Callback):
    """Whether validation was under way when a training ended."""

    def __init__(self) -> None:
        self.validating = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validating = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validating = False


class Once:
    """A run that gets the metrics of each epoch once, however many attempts a training takes."""

    def __init__(self, run: Recorder) -> None:
        self.run, self.run_id, self._steps = run, run.run_id, set(run.steps())

    def steps(self) -> set[int]:
        return self._steps

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.run.log_metrics(metrics, step)
        self._steps.add(step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.run.set_tags(tags)

    def child(self, name: str, params: Mapping[str, object]) -> AbstractContextManager[Any]:
        return self.run.child(name, params)


def within_memory(
    attempt: Callable[[Physical, Callback, Recorder], History],
    net: Classifier,
    config: Fit,
    *,
    batch_size: int,
    recorder: Recorder,
    label: str,
    resume: Path | None = None,
) -> History:
    """What `attempt` gives, with half as many images at once whenever memory does not suffice.

    A step of the optimiser still sees the same images, in the same order; their gradients are accumulated. What does
    differ is what belongs to those that go through the network together: BatchNorm's statistics, dropout's draws and
    the partners of mixup.

    Args:
        attempt: fits `net`, given what goes through it at once, a callback, and where the metrics go.
        net: set back, before each further attempt, to what it was.
        resume: where to remember how many images fit.

    Raises:
        UserError: where not even one image fits, or not the two that BatchNorm and mixup need.
    """
    physical, once = _remembered(resume) or whole(batch_size), Once(recorder)
    before, depth = {name: value.clone() for name, value in net.state_dict().items()}, net.freeze_depth
    while True:
        phase = Phase()
        try:
            return attempt(physical, phase, once)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            reason = str(error).partition("\n")[0]
            memory.release(error)
        least = 2 if config.mixes or _trains_batchnorm(net) else 1
        net.cpu().zero_grad(set_to_none=True)
        net.load_state_dict(before)
        net.freeze(depth)
        physical = _smaller(physical, phase, least, f"{label}: out of memory ({reason})")
        if resume:
            write_json(resume / _FILE, physical._asdict())
        recorder.set_tags({f"batch_size.physical.{name}": str(size) for name, size in physical._asdict().items()})
        pieces = parts(batch_size, physical.train) * config.accumulate
        print(
            f"{label}: out of memory: from here on {physical.train} images at once (validation: {physical.val}),"
            f" the gradients of {pieces} such batches make a step of {batch_size * config.accumulate} images as before",
            flush=True,
        )


def _smaller(physical: Physical, phase: Phase, least: int, what: str) -> Physical:
    """Half of it; for validation alone, where that was under way. Raises UserError with `what` at `least`."""
    name, size, least = ("val", physical.val, 1) if phase.validating else ("train", physical.train, least)
    if size <= least:
        raise UserError(f"{what} with a batch of {size}, than which there is no smaller", memory.HELP)
    half = max(-(-size // 2), least)
    if name == "val":
        return physical._replace(val=half)
    return Physical(half, max(-(-physical.val // 2), 1))


def _trains_batchnorm(net: Classifier) -> bool:
    net.train()
    return any(isinstance(module, _BatchNorm) and module.training for module in net.modules())


def _remembered(resume: Path | None) -> Physical | None:
    if resume is None or not (resume / _FILE).exists():
        return None
    return Physical(**read_json(resume / _FILE))
