"""One training loop for tune, train and finetune."""

import json
import logging
import signal
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.callbacks.progress import RichProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

from transferline.artifacts import project_root
from transferline.fitting import Fit
from transferline.model.classifier import Classifier, Suffix
from transferline.training import checkpoints
from transferline.training.callbacks import Averaging, Best
from transferline.training.checkpoints import Files
from transferline.training.data import Behind, Physical, Splits, ViewData
from transferline.training.health import Health
from transferline.training.losses import class_weights
from transferline.training.module import Trainee
from transferline.training.resume import Resume
from transferline.training.sampling import parts
from transferline.training.scores import LOGGED, MONITORS


class Recorder(Protocol):
    """Where metrics go; a run of MLflow in a stage, a list in a test."""

    @property
    def run_id(self) -> str: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None: ...

    def steps(self) -> Collection[int]:
        """Those that metrics of epochs were logged for, before this process."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def child(self, name: str, params: Mapping[str, object]) -> AbstractContextManager[Self]: ...


@dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        epochs: per epoch what scores.LOGGED names, and lr, the head's in its last step; none where nothing was to be
            trained.
        best_epoch: the epoch whose weights were kept, from 0.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch]


class _Report(Callback):
    """Hands each epoch's metrics to the recorder and prints them as one line.

    Args:
        label: starts the line.
        history: where the metrics go, too.
        recorder: gets them once.
        logged: the epochs that it has already, of a process that was killed.
        joined: validation images are trained on, so that their figures say nothing.
    """

    def __init__(
        self,
        label: str,
        history: History,
        recorder: Recorder,
        logged: Collection[int] = (),
        *,
        joined: bool = False,
    ) -> None:
        self.label, self.history, self.recorder, self.lr = label, history, recorder, 0.0
        self.logged, self.joined = set(logged), joined

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.history.epochs, "lr": self.lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.take_up(state_dict["epochs"])
        self.lr = state_dict["lr"]

    def take_up(self, epochs: Sequence[dict[str, float]]) -> None:
        """Epochs of a process that was killed, perhaps before it logged them."""
        self.history.epochs[:] = epochs
        for epoch, row in enumerate(epochs):
            self._log(row, epoch)

    def _log(self, row: dict[str, float], epoch: int) -> None:
        if epoch not in self.logged:
            self.recorder.log_metrics(row, step=epoch)
            self.logged.add(epoch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self.lr = float(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = [name for name in LOGGED if not (self.joined and name.startswith("val_"))]
        row = {name: float(trainer.callback_metrics[name]) for name in names}
        row["lr"] = self.lr
        self.history.epochs.append(row)
        self._log(row, trainer.current_epoch)
        line = f"{self.label}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {row['train_loss']:.4f}"
        if not self.joined:
            line += f"  val loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
            line += f"  macro-F1 {row['val_macro_f1']:.4f}"
        print(line, flush=True)


def fit(
    classifier: Classifier,
    splits: Splits,
    config: Fit,
    *,
    lr: float,
    batch_size: int,
    seed: int,
    recorder: Recorder,
    label: str,
    behind: Behind | None = None,
    callbacks: Sequence[Callback] = (),
    physical: Physical | None = None,
    resume: Path | None = None,
) -> History:
    """Train `classifier` in place and leave it, on the CPU, with the weights of its best epoch.

    Args:
        classifier: with its freeze depth set.
        splits: what is trained and validated on.
        config: how to train; the model's section decides dropout.
        lr: learning rate of the head.
        batch_size: images a step.
        seed: of order, views and dropout.
        recorder: where each epoch's metrics go.
        label: starts each printed line.
        behind: the splits behind the frozen blocks, where they are kept; the rest alone is then trained and run.
        callbacks: further ones, as a pruner.
        physical: images that fit into memory at once; larger batches come in parts, a step still being what it was.
        resume: a folder for the state of this training, from which it goes on if it was killed, and ends as if it had
            not been; SIGTERM and SIGINT then end it between two batches. None: nothing is kept.

    Raises:
        NotFiniteError: where a loss is not finite.
    """
    quieten()
    config = config.lasting(len(splits.train.labels))
    if splits.joined:  # nothing is left to validate on
        config = config.model_copy(update={"monitor": "train_loss", "early_stopping": None})
    pl.seed_everything(seed, verbose=False)
    torch.set_flush_denormal(True)  # weights that decay to almost nothing slow a CPU down and change nothing
    history, depth = History(), classifier.freeze_depth
    module = make_trainee(classifier, splits, config, lr=lr, seed=seed, behind=behind)
    balanced = config.sampling == "balanced"
    assert config.epochs != "auto"
    clean_from = max(config.epochs - config.clean_epochs, 1)
    data = ViewData(splits, batch_size, seed, behind, balanced=balanced, physical=physical, clean_from=clean_from)
    report = _Report(label, history, recorder, recorder.steps() if resume else (), joined=splits.joined)
    watching = [Health(label, splits, resume), *callbacks]
    if resume is None:
        with _scratch() as folder:
            best = _train(module, data, config, [report, *watching], folder=folder)
            state = torch.load(best, map_location="cpu", weights_only=True)
    else:
        counted = len(data.train_dataloader()), _accumulated(data, config)
        keeper = Resume(resume, label, _made_for(module, data, config, lr), *counted, share=config.checkpoint_share)
        state = checkpoints.read(_resumed(module, data, config, watching, report=report, resume=keeper))
    module.cpu().load_state_dict(state["state_dict"])
    history.best_epoch = int(state["epoch"])
    classifier.frozen_statistics = False
    classifier.freeze(depth)  # where blocks were unfrozen one by one, and perhaps not all
    classifier.eval()
    return history


def make_trainee(
    classifier: Classifier, splits: Splits, config: Fit, *, lr: float, seed: int, behind: Behind | None
) -> Trainee:
    """`classifier`, or what of it lies above what is kept, in training mode and ready for Lightning."""
    classifier.frozen_statistics = config.batchnorm == "frozen"
    classifier.train()  # Lightning keeps the mode it finds, and a classifier just loaded is in eval mode
    if config.channels_last:
        classifier.to(memory_format=torch.channels_last)
    net = Suffix(classifier) if behind else classifier
    weights = class_weights(splits.train, config)
    return Trainee(net, config, lr, weights, multilabel=splits.train.multilabel, seed=seed)


@contextmanager
def _scratch() -> Iterator[Path]:
    parent = project_root() / ".cache" / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def _resumed(
    module: Trainee, data: ViewData, config: Fit, callbacks: Sequence[Callback], *, report: _Report, resume: Resume
) -> Path:
    """Train, or what of it is left; the file with the best weights."""
    if resume.finished:
        print(f"{report.label}: was trained before it was stopped (resumed)", flush=True)
        report.take_up(resume.finished["epochs"])
        return resume.folder / str(resume.finished["best"])
    best = _train(module, data, config, [report, *callbacks, resume], folder=resume.folder, resume=resume)
    resume.finish(report.history.epochs, best)
    return best


def _made_for(module: Trainee, data: ViewData, config: Fit, lr: float) -> str:
    """What decides how a training goes, beside the inputs of its stage."""
    net = module.net
    given = [lr, data.batch_size, data.seed, len(data.labels), net.offset, net.freeze_depth]
    return json.dumps([config.model_dump(mode="json", exclude={"checkpoint_share"}), *given])


def _train(
    module: Trainee,
    data: ViewData,
    config: Fit,
    callbacks: list[Callback],
    *,
    folder: Path,
    resume: Resume | None = None,
) -> Path:
    """The file in `folder` that has the weights of the best epoch, and its number."""
    monitor, mode = MONITORS[config.monitor]
    if config.ema is not None:
        callbacks.append(Averaging(config.ema))
    # Callbacks have no say in a checkpoint of weights alone, and an average is a callback's.
    alone = config.ema is None
    checkpoint = Best(folder, "best-{epoch}", monitor=monitor, mode=mode, save_weights_only=alone)
    plugins = [resume.files] if resume else []
    trainer = _trainer(config, [*callbacks, checkpoint], plugins, _accumulated(data, config))
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume.path if resume else None, weights_only=True)
    except SIGTERMException:  # Lightning's, where nothing else handles the signal: a SystemExit with code 0
        raise SystemExit(128 + signal.SIGTERM) from None
    return Path(checkpoint.best_model_path)


def _accumulated(data: ViewData, config: Fit) -> int:
    """What goes through the network one after the other before a step: batches, or their parts."""
    return config.accumulate * parts(data.batch_size, data.physical.train)


def pick_precision(config: Fit) -> Any:
    """bf16-mixed on a GPU that has it, unless the user says otherwise."""
    if config.precision != "auto":
        return config.precision
    on_gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _trainer(config: Fit, callbacks: list[Callback], plugins: list[Files], accumulate: int) -> pl.Trainer:
    monitor, mode = MONITORS[config.early_stopping_monitor or config.monitor]
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=config.early_stopping))
    interactive = sys.stdout.isatty()
    if interactive:
        callbacks.append(RichProgressBar(leave=False))
    assert config.epochs != "auto"
    return pl.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=1,  # on a machine with several GPUs, Lightning's own 'auto' would start this stage once for each
        precision=pick_precision(config),
        gradient_clip_val=config.gradient_clip,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        plugins=list(plugins),
        logger=False,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic="warn" if torch.cuda.is_available() else True,
    )


def quieten() -> None:
    """Lightning's hints are for its developers' users, not for ours."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
