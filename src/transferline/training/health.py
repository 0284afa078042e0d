"""A loss that is no number any more ends a training, before it can spoil what was saved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from transferline.errors import UserError
from transferline.training.data import Batch, Splits
from transferline.training.module import Trainee

_SHOWN = 5  # images that a message names


class NotFiniteError(UserError):
    """A loss, or a weight, is NaN or infinite."""


class _Reading:
    """A loss on its way to the host. A GPU is not waited for: it is read one step later, when it has long arrived."""

    def __init__(self, loss: Tensor) -> None:
        self.event: torch.Event | None = None
        self.loss = loss.detach()
        if loss.is_cuda:
            self.loss = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(self.loss, non_blocking=True)
            self.event = torch.Event(loss.device)
            self.event.record()

    def value(self) -> float:
        if self.event is not None:
            self.event.synchronize()
        return float(self.loss)


@dataclass
class _Step:
    """What is to be said of a step if its loss turns out not to be finite."""

    epoch: int
    batch: int
    number: int
    lr: float
    images: Batch
    loss: _Reading | None = None


class Health(Callback):
    """Watches the losses of a training, and the weights whenever they are saved.

    On a GPU a loss is known one step late. No checkpoint comes in between: whatever is due is read before validation
    and before saving.

    Args:
        label: starts the message; its first word is the section.
        splits: whose files are named.
        kept: the folder that states of this training are kept in; None where they are not.

    Raises:
        NotFiniteError: from the hooks, and so from `Trainer.fit`.
    """

    def __init__(self, label: str, splits: Splits, kept: Path | None = None) -> None:
        self.label, self.splits, self.kept = label, splits, kept
        self._now: _Step | None = None
        self._due: _Step | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._now = _Step(trainer.current_epoch, batch_idx, trainer.global_step, lr, batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._read(trainer, pl_module)
        assert self._now is not None
        self._now.loss = _Reading(loss)
        self._due = self._now
        if not loss.is_cuda:
            self._read(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not math.isfinite(loss):
            arrays, batches = self.splits.val, trainer.val_dataloaders
            rows = [row for batch in batches or () for row in _culprits(pl_module, batch)]
            alone = 0 < len(rows) < len(arrays.labels)
            which = _named("these alone give it", arrays.paths, rows) if alone else "no image in particular"
            raise self._error(trainer, f"the validation loss is {loss} after epoch {trainer.current_epoch + 1}", which)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What is about to be saved must be worth going on from."""
        self._read(trainer, pl_module)
        for name, weight in pl_module.named_parameters():
            if not torch.isfinite(weight).all():
                what = f"the weights of {name} are not finite after step {trainer.global_step}"
                raise self._error(trainer, what, "no image in particular")

    def _read(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step, self._due = self._due, None
        if step is None or step.loss is None or math.isfinite(value := step.loss.value()):
            return
        paths, draws = self.splits.paths, step.images[2].tolist()
        rows = _culprits(module, step.images)
        alone = 0 < len(rows) < len(draws)
        which = _named("these alone give it" if alone else "its images", paths, rows if alone else draws)
        what = f"the loss is {value} in epoch {step.epoch + 1}, step {step.number + 1} (batch {step.batch + 1})"
        raise self._error(trainer, f"{what}, at a learning rate of {step.lr:.3g}", which)

    def _error(self, trainer: pl.Trainer, what: str, which: str) -> NotFiniteError:
        section = self.label.split(":")[0]
        advice = [
            "take a lower learning rate (tune.start.lr, tune.search.lr)",
            f"set a smaller {section}.gradient_clip (0.1)",
            *([] if which.startswith("no image") else ["look at these images"]),
            *([] if trainer.precision == "32-true" else [f"set {section}.precision: 32-true"]),
        ]
        kept = f"; the last good state is kept in {self.kept}" if self.kept and any(self.kept.glob("*.ckpt")) else ""
        return NotFiniteError(f"{self.label}: {what}; {which}", ", or ".join(advice) + kept)


@torch.no_grad()
def _culprits(module: pl.LightningModule, batch: Batch) -> list[int]:
    """The draws of a batch for which the network, in eval mode, answers with something that is not finite."""
    assert isinstance(module, Trainee)
    logits = module.eval().logits(tuple(part.to(module.device) for part in batch[0]))
    bad: list[int] = batch[2][~torch.isfinite(logits).all(dim=1).to(batch[2].device)].tolist()
    return bad


def _named(words: str, paths: Sequence[str], draws: Sequence[int]) -> str:
    """The files of the first few draws."""
    found = [paths[draw % len(paths)] for draw in draws]
    further = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{words}: {', '.join(found[:_SHOWN])}{further}"
