"""The learning-rate range test: some steps at ever higher rates, and how the loss takes it.

Smith 2017, arXiv 1506.01186; rates grow by the same factor each step, and the test ends where the loss diverges, as
in fastai (Howard and Gugger 2020, arXiv 2002.04688).
"""

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks.progress import RichProgressBar

from transferline.fitting import Fit
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, make_card
from transferline.on_demand import LrFind
from transferline.sections import Model
from transferline.training.data import Behind, Splits, ViewData, embed
from transferline.training.fit import make_trainee, pick_precision, quieten
from transferline.training.lr_report import Curve, kernel
from transferline.training.optimisers import check_optimizer
from transferline.tuning import Start


class _Sweep(Callback):
    """Sets each step's rate, keeps each step's loss, and ends the training where that diverges."""

    def __init__(self, options: LrFind) -> None:
        self.rates: list[float] = np.geomspace(options.min_lr, options.max_lr, options.steps).tolist()
        self.losses: list[float] = []
        self.options, self._lowest = options, math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The groups start at the lowest rate, each at its own share of it."""
        self.shares = [group["lr"] / self.rates[0] for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if len(self.losses) == trainer.global_step:  # else the batch is one of several that make a step
            self.losses.append(0.0)
        for group, share in zip(trainer.optimizers[0].param_groups, self.shares, strict=True):
            group["lr"] = share * self.rates[trainer.global_step]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses[-1] += float(outputs["loss"])
        if trainer.global_step == len(self.losses):
            trainer.should_stop = self._diverged()

    def _diverged(self) -> bool:
        """Whether the loss, smoothed up to here, is far above the lowest that it was."""
        if not math.isfinite(self.losses[-1]):
            return True
        weights = kernel(self.options)[: len(self.losses)]
        smoothed = float(np.dot(weights, self.losses[: -len(weights) - 1 : -1]) / weights.sum())
        self._lowest = min(self._lowest, smoothed)
        return smoothed > self.options.diverged * self._lowest


def find(splits: Splits, model: Model, config: Fit, options: LrFind, *, start: Start, seed: int, cache: Cache) -> Curve:
    """The loss at each rate, of a classifier with a fresh head; none of it is kept.

    Args:
        splits: train alone is used.
        model: the section of that name.
        config: how to train, its schedule and epochs aside.
        options: which rates, and how many.
        start: its batch size and freeze depth are taken; half of the blocks are frozen where it names none.
        seed: of head, order, views and dropout.
        cache: what the frozen blocks give is taken from there, and kept for tune.

    Raises:
        UserError: where the depth, the weights or the optimiser cannot be had.
    """
    check_optimizer(config.optimizer)
    net = classifier.build(make_card(model, splits.train), model.weights, seed)
    depth = -(-len(net.blocks) // 2) if start.freeze_depth is None else start.freeze_depth
    net.freeze(depth)
    behind = embed(cache, net, splits, {depth}, config).get(depth)
    return sweep(net, splits, config, options, batch_size=start.batch_size, seed=seed, behind=behind)


def sweep(
    net: Classifier,
    splits: Splits,
    config: Fit,
    options: LrFind,
    *,
    batch_size: int,
    seed: int,
    behind: Behind | None = None,
) -> Curve:
    """Train `net` in place, for `options.steps` steps or until the loss diverges. Arguments as in `fit`."""
    quieten()
    pl.seed_everything(seed, verbose=False)
    config = config.model_copy(update={"schedule": "constant"})
    module = make_trainee(net, splits, config, lr=options.min_lr, seed=seed, behind=behind)
    data = ViewData(splits, batch_size, seed, behind=behind, balanced=config.sampling == "balanced")
    callback = _Sweep(options)
    _trainer(config, callback, options.steps).fit(module, datamodule=data)
    module.cpu()
    rates: npt.NDArray[np.float64] = np.array(callback.rates[: len(callback.losses)])
    return Curve(rates, np.array(callback.losses), options)


def _trainer(config: Fit, callback: Callback, steps: int) -> pl.Trainer:
    """As fit's, but it counts steps, does not validate and writes nothing."""
    interactive = sys.stdout.isatty()
    return pl.Trainer(
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        accelerator=config.accelerator,
        devices=1,
        precision=pick_precision(config),
        gradient_clip_val=config.gradient_clip,
        accumulate_grad_batches=config.accumulate,
        callbacks=[callback, *([RichProgressBar(leave=False)] if interactive else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        deterministic="warn" if torch.cuda.is_available() else True,
    )
