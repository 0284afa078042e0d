"""A training that was killed goes on where it was, and ends with the same weights, to the last bit.

What is kept is the state between two batches: weights, optimiser, schedule, callbacks, metrics so far, and where every
random generator stands. The order of images is a function of seed and epoch, so the number of the next batch is enough.
"""

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from transferline.training import checkpoints
from transferline.training.callbacks import Averaging
from transferline.training.checkpoints import LAST, PREVIOUS, DamagedError, Files, State

_KEY = "resume"  # of what this module puts into a checkpoint
_BYTES_A_SECOND, _LEAST = 1e8, 0.05  # at which a state is thought to be written, and the seconds for it, until one was


class Budget:
    """Saving may take no more than its share of a training's time.

    Args:
        expected: what the first save will take, in seconds; later ones are expected to take as long as the last.
        share: above 0; 1: every chance is taken.
    """

    def __init__(self, expected: float, share: float = 0.01) -> None:
        self.expected, self.share, self.spent, self.begun = expected, share, 0.0, time.monotonic()

    def due(self) -> bool:
        return self.share == 1 or self.spent + self.expected <= self.share * (time.monotonic() - self.begun)

    def paid(self, seconds: float) -> None:
        self.expected, self.spent = seconds, self.spent + seconds


class Deferred:
    """SIGTERM and SIGINT wait until the state is kept; a second one does not wait.

    Signals that nothing handles, and those of a thread other than the main one, are left alone.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def note(self) -> None:
        """Keep in mind who handles them. Lightning's own handlers, set up later, would end the process with 0."""
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            self._handlers = {
                number: handler
                for number, handler in found.items()
                if callable(handler) and handler is not signal.default_int_handler
            }

    def install(self) -> None:
        """From now on until Lightning puts back the handlers it found."""
        for number in self._handlers:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            self._handlers[number](number, frame)
        self.received = number

    def deliver(self) -> None:
        """Do now what the signal asked for, which is to raise SystemExit."""
        if self.received is not None:
            number, self.received = self.received, None
            self._handlers[number](number, None)


class Resume(Callback):
    """Keeps the state of a training in `folder`, and takes it up again where one lies there.

    Args:
        folder: of this training alone.
        label: starts each printed line.
        made_for: what the training is of; a state that was made for another is left alone.
        batches: in an epoch.
        accumulate: batches a step. A state that was kept when more images fitted into memory, and so batches were
            fewer, is taken up after the same step.
        share: of the time that saving may take.

    Attributes:
        files: how Lightning reads and writes, a plugin of its Trainer.
        path: the state to go on from; None: from the start.
        finished: the epochs of a training that came to its end, and the file with its best weights; None else.
    """

    def __init__(
        self, folder: Path, label: str, made_for: str, batches: int, accumulate: int, *, share: float = 0.01
    ) -> None:
        self.folder, self.label, self.made_for = folder, label, made_for
        self.batches, self.accumulate, self.share = batches, accumulate, share
        self.files, self.signals = Files(), Deferred()
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._start = self._find()
        self.finished = self._start if self._start and "epochs" in self._start else None
        self._tidy()
        self._at: State | None = None  # while it is saved
        self._before = self.files.needed
        self._validating_from: State = {}

    # What lies in the folder.

    def _find(self) -> tuple[Path | None, State | None]:
        """The newest state that is whole and made for this training."""
        found: tuple[Path | None, State | None] = None, None
        damage = set()
        for path in (self.folder / PREVIOUS, self.folder / LAST):
            if not path.exists():
                continue
            try:
                kept: State = checkpoints.read(path)[_KEY]
                if kept["best"]:
                    checkpoints.check(self.folder / kept["best"])
            except DamagedError as error:
                damage.add(str(error))
                path.unlink()
                continue
            self.files.needed.add(kept["best"])
            if kept["made_for"] == self.made_for:
                found = path, self._recounted(kept)
        for what in sorted(damage):
            print(f"{self.label}: {what}, so it is not used", flush=True)
        return found

    def _recounted(self, kept: State) -> State:
        """Where it stands, in batches of now."""
        if kept.get("accumulate", self.accumulate) == self.accumulate:
            return kept
        over, steps = kept["batch"] == kept["batches"], kept["batch"] // kept["accumulate"]
        batch = self.batches if over else steps * self.accumulate
        return kept | {"batch": batch, "batches": self.batches, "accumulate": self.accumulate}

    def _tidy(self) -> None:
        """Remove best weights that nothing kept counts on, and what a killed process left half-written."""
        for path in self.folder.glob("*.ckpt"):
            if path.name not in (LAST, PREVIOUS, *self.files.needed):
                path.unlink()

    def finish(self, epochs: Sequence[dict[str, float]], best: Path) -> None:
        """The training is over: what follows need not train again. Then do what a signal asked for."""
        kept = {"made_for": self.made_for, "best": best.name, "epochs": list(epochs)}
        checkpoints.write({_KEY: kept}, self.folder / LAST)
        self.signals.deliver()

    # Taking up.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.note()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        size = sum(tensor.nbytes for tensor in pl_module.state_dict().values())
        expected = _LEAST + 3 * size / _BYTES_A_SECOND  # the optimiser has up to two figures a weight
        self.budget = Budget(expected, self.share)
        self.signals.install()
        if self._start:
            loader: Any = trainer.train_dataloader
            loader.sampler.first = self._start["batch"] % self._start["batches"]
            print(f"{self.label}: goes on {_place(self._start)} (resumed)", flush=True)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: State) -> None:
        if self._start and self._start["batches"] != checkpoint[_KEY]["batches"]:
            _place_loops(checkpoint["loops"]["fit_loop"], *(self._start[key] for key in ("epoch", "batch", "batches")))

    def _taken_up(self, trainer: pl.Trainer) -> bool:
        """Whether this is where the state that was found was kept; then all is as it was."""
        if not self._start:
            return False
        checkpoints.set_generators(self._start["generators"])
        # Lightning takes it for restarting until the epoch ends, and would not let a plateau schedule see the metrics.
        trainer.fit_loop.restarting = False
        self._start = None
        return True

    # Keeping.

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients of batches before this one are no part of what is kept
        kept = self._taken_up(trainer) or batch_idx == trainer.current_epoch == 0
        if not kept and (self.signals.received or self.budget.due()):
            self._save(trainer, batch_idx, checkpoints.generators())
        self._stop_if_asked(trainer, batch_idx)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        kept, self._validating_from = self._taken_up(trainer), checkpoints.generators()
        if not kept and self.budget.due():
            self._save(trainer, trainer.num_training_batches, self._validating_from)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A signal ends a validation, which is then done anew from its start."""
        if not self.signals.received:
            return
        callbacks: list[Callback] = vars(trainer)["callbacks"]
        for callback in callbacks:
            if isinstance(callback, Averaging):
                callback.on_validation_epoch_end(trainer, pl_module)  # the weights in training come back
        self._save(trainer, trainer.num_training_batches, self._validating_from)
        self._stop_if_asked(trainer, trainer.num_training_batches)

    def _save(self, trainer: pl.Trainer, batch: int | float, generators: State) -> None:
        began, best = time.monotonic(), Path(getattr(trainer.checkpoint_callback, "best_model_path", "")).name
        self._at = {
            "made_for": self.made_for,
            "best": best,
            "epoch": trainer.current_epoch,
            "batch": int(batch),
            "batches": int(trainer.num_training_batches),
            "accumulate": self.accumulate,
            "generators": generators,
        }
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self._at, self.files.needed, self._before = None, {best, *self._before}, {best}
        self._tidy()
        self.budget.paid(time.monotonic() - began)

    def _stop_if_asked(self, trainer: pl.Trainer, batch: int | float) -> None:
        if self.signals.received:
            at = {"epoch": trainer.current_epoch, "batch": batch, "batches": trainer.num_training_batches}
            print(f"{self.label}: stopped {_place(at)}; the next run goes on from there", flush=True)
            self.signals.deliver()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: State) -> None:
        if self._at:
            checkpoint[_KEY] = self._at
            _place_loops(checkpoint["loops"]["fit_loop"], self._at["epoch"], self._at["batch"], self._at["batches"])


def _place(at: State) -> str:
    """Where a training stands, in words; epochs are counted from 1."""
    if at["batch"]:
        return f"after epoch {at['epoch'] + 1}, batch {at['batch']} of {at['batches']}"
    return f"after epoch {at['epoch']}" if at["epoch"] else "before the first batch"


def _place_loops(loops: State, epoch: int, batch: int, batches: int) -> None:
    """Have Lightning's loops stand before a batch of an epoch, or before the validation that ends it.

    They are saved within a hook, with counters half-way, and go on differently from each: an epoch's first batch is
    placed before the epoch's start, and else the epoch is started anew, with batches done.
    """
    done, total = _even(epoch), _even(loops["epoch_loop.batch_progress"]["total"]["completed"])
    begun = done | {"ready": epoch + (batch > 0)}
    loops["epoch_progress"] = {"total": begun, "current": dict(begun)}
    loops["epoch_loop.batch_progress"] = {"total": total, "current": _even(batch), "is_last_batch": batch == batches}
    waiting = _even(0) | ({"ready": 1, "started": 1} if batch == batches else {})
    validation = {"total": waiting, "current": _even(0), "is_last_batch": False}
    loops["epoch_loop.val_loop.batch_progress"] = validation


def _even(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
