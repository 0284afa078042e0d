"""The LightningModule: a step's loss and penalties, optimiser, schedule, validation metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from transferline.fitting import Fit
from transferline.model.classifier import Classifier, Suffix
from transferline.training.data import Batch, Inputs
from transferline.training.losses import Loss
from transferline.training.mixing import Mixing
from transferline.training.optimisers import decays, make_optimizer
from transferline.training.schedules import make_schedule
from transferline.training.scores import make_scores


@dataclass
class Running:
    """Means over the images of an epoch up to now. Lightning's own are not in its checkpoints."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Means of a batch, on any device, and how many images it has."""
        self.sums = {name: self.sums.get(name, 0.0) + value.float() * count for name, value in values.items()}
        self.images += count

    def means(self) -> dict[str, Tensor]:
        return {name: value / self.images for name, value in self.sums.items()}


class Trainee(pl.LightningModule):
    """A classifier in training, or the suffix of one.

    Args:
        net: with its freeze depth set; frozen blocks get no optimiser group.
        config: how to train.
        lr: learning rate of the head; the backbone's is `lr * config.backbone_lr_factor`.
        class_weights: float32 [C], or None for equal ones.
        multilabel: whether images have several labels.
        seed: of mixup and CutMix.
    """

    def __init__(
        self,
        net: Classifier | Suffix,
        config: Fit,
        lr: float,
        class_weights: Tensor | None,
        *,
        multilabel: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.config, self.lr = net, config, lr
        self.classes = net.head.linear.out_features
        self.loss = Loss(config, class_weights, multilabel)
        self.mixing = Mixing(config, seed)
        self.val_scores = make_scores(self.classes, multilabel)
        self.running = Running()

    def inputs(self, stored: Tensor) -> Tensor:
        """uint8 images [B, S, S, 3] -> [B, 3, S, S]; a suffix's inputs as they are: both in the default dtype."""
        features = stored.permute(0, 3, 1, 2) if stored.dtype == torch.uint8 else stored
        features = features.to(torch.get_default_dtype())  # float32, unless Lightning trains in double precision
        if features.ndim != 4:
            return features
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return features.contiguous(memory_format=layout)

    def logits(self, stored: Inputs) -> Tensor:
        """Of a batch, what the network takes -> float32 [B, C]."""
        logits: Tensor = self.net(*map(self.inputs, stored))
        return logits

    def answers(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Logits and targets, both float [B, C], of a batch to train on; mixed where so configured."""
        stored, labels, _draws = batch
        targets = self.loss.targets(labels, self.classes)
        features, targets = self.mixing(self.inputs(stored[0]), targets, epoch, step)
        logits: Tensor = self.net(features, *map(self.inputs, stored[1:]))
        return logits, targets

    def penalty(self) -> Tensor | float:
        """L1 and L2 on the trained weights; what is spared weight decay, as biases and norms, is left alone."""
        total: Tensor | float = 0.0
        if self.config.l1 or self.config.l2:
            for name, weight in self.net.named_parameters():
                if weight.requires_grad and decays(name, weight):
                    total = total + self.config.l1 * weight.abs().sum() + self.config.l2 / 2 * weight.square().sum()
        return total

    def training_step(self, batch: Batch, step: int) -> Tensor:
        count = len(batch[1])
        logits, targets = self.answers(batch, self.current_epoch, step)
        loss: Tensor = self.loss(logits, targets, self.config.label_smoothing)
        self.running.add({"train_loss": loss.detach(), "train_accuracy": self._right(logits.detach(), targets)}, count)
        return (loss + self.penalty()) * self._share(count, step)

    def _right(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.loss.multilabel:
            return ((logits > 0) == (targets > 0.5)).float().mean()
        return (logits.argmax(1) == targets.argmax(1)).float().mean()

    def _share(self, count: int, step: int) -> float:
        """What makes accumulated batches weigh as in one: Lightning divides by their number, whatever their sizes."""
        batches = self.trainer.accumulate_grad_batches
        if batches == 1:
            return 1.0
        assert self.trainer.train_dataloader is not None
        images: int = self.trainer.train_dataloader.sampler.images_in_step(step, self.config.accumulate)
        return batches * count / images

    def validation_step(self, batch: Batch, _: int) -> None:
        stored, labels, _draws = batch
        logits = self.logits(stored).float()
        self.val_scores.update(logits, labels)
        self.log("val_loss", self.loss(logits, self.loss.targets(labels, self.classes)), batch_size=len(labels))

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_scores.compute() | self.running.means())
        self.val_scores.reset()
        self.running = Running()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["running"] = vars(self.running)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.running = Running(**checkpoint["running"])

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.net, self.config, self.lr)
        schedule = make_schedule(optimizer, self.config, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer
