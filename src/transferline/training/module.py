"""The LightningModule: loss, penalties, optimiser, schedule, validation metrics."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from transferline.model.classifier import Classifier, Suffix
from transferline.sections import Fit
from transferline.training.data import Batch

Net = Classifier | Suffix

MONITORS = {"macro_f1": ("val_macro_f1", "max"), "loss": ("val_loss", "min")}


class Trainee(pl.LightningModule):
    """A classifier in training, or the suffix of one.

    Args:
        net: with its freeze depth set; frozen blocks get no optimiser group.
        config: how to train.
        lr: learning rate of the head; the backbone's is `lr * config.backbone_lr_factor`.
        class_weights: float32 [C], or None for equal ones.
    """

    class_weights: Tensor | None

    def __init__(self, net: Net, config: Fit, lr: float, class_weights: Tensor | None) -> None:
        super().__init__()
        self.net, self.config, self.lr = net, config, lr
        self.register_buffer("class_weights", class_weights, persistent=False)
        classes = net.head.linear.out_features
        self.val_metrics = MetricCollection(
            {
                "val_accuracy": MulticlassAccuracy(classes, average="micro"),
                "val_macro_f1": MulticlassF1Score(classes, average="macro"),
            }
        )

    def logits(self, stored: Tensor) -> Tensor:
        """uint8 images [B, S, S, 3], or a suffix's activations of any float type -> float32 [B, C]."""
        images = stored.dtype == torch.uint8
        features = (stored.permute(0, 3, 1, 2) if images else stored).float()
        if features.ndim == 4:
            layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
            features = features.contiguous(memory_format=layout)
        logits: Tensor = self.net(features)
        return logits

    def cross_entropy(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=smoothing)

    def penalty(self) -> Tensor | float:
        """L1 and L2 on the trained weights; biases and norms (vectors) are left alone."""
        total: Tensor | float = 0.0
        if self.config.l1 or self.config.l2:
            for weight in self.net.parameters():
                if weight.requires_grad and weight.ndim > 1:
                    total = total + self.config.l1 * weight.abs().sum() + self.config.l2 / 2 * weight.square().sum()
        return total

    def training_step(self, batch: Batch, _: int) -> Tensor:
        stored, labels, _rows = batch
        logits = self.logits(stored)
        loss = self.cross_entropy(logits, labels, self.config.label_smoothing)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels))
        return loss + self.penalty()

    def validation_step(self, batch: Batch, _: int) -> None:
        stored, labels, _rows = batch
        logits = self.logits(stored).float()
        self.val_metrics.update(logits, labels)
        self.log("val_loss", self.cross_entropy(logits, labels, 0.0), batch_size=len(labels))
        self.log_dict(self.val_metrics, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.net, self.config, self.lr)
        schedule = self._schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer

    def _schedule(self, optimizer: Optimizer) -> dict[str, Any] | None:
        steps = int(self.trainer.estimated_stepping_batches)
        match self.config.schedule:
            case "onecycle":
                peaks = [group["lr"] for group in optimizer.param_groups]
                # Both phases must have a length, however few the steps: OneCycleLR divides by it.
                rising = min(max(self.config.warmup, 1.5 / steps), 1 - 0.5 / steps)
                cycle = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=rising)
                return {"scheduler": cycle, "interval": "step"}
            case "cosine":
                return {"scheduler": cosine(optimizer, steps, self.config.warmup), "interval": "step"}
            case "step":
                return {"scheduler": StepLR(optimizer, self.config.step_epochs, self.config.step_gamma)}
            case "plateau":
                monitor, mode = MONITORS[self.config.monitor]
                plateau = ReduceLROnPlateau(
                    optimizer,
                    mode="max" if mode == "max" else "min",
                    factor=self.config.step_gamma,
                    patience=self.config.plateau_patience,
                )
                return {"scheduler": plateau, "monitor": monitor}
            case "constant":
                return None


def make_optimizer(net: Net, config: Fit, lr: float) -> Optimizer:
    """One group for the head and one for what is trained of the backbone, at its lower rate."""
    head = [weight for weight in net.head.parameters() if weight.requires_grad]
    backbone = [weight for weight in net.blocks.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": head, "lr": lr, "name": "head"}]
    if backbone:
        groups.append({"params": backbone, "lr": lr * config.backbone_lr_factor, "name": "backbone"})
    match config.optimizer:
        case "adamw":
            return AdamW(groups, weight_decay=config.weight_decay)
        case "adam":
            return Adam(groups, weight_decay=config.weight_decay)
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0
            return SGD(groups, momentum=config.momentum, nesterov=nesterov, weight_decay=config.weight_decay)


def cosine(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up, then a half cosine to zero (Loshchilov and Hutter 2016, arXiv 1608.03983)."""
    rising = max(round(steps * warmup), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(steps - rising, 1)
        return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(progress, 1.0)))))

    return LambdaLR(optimizer, factor)
