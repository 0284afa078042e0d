"""The other side: transfer learning as one writes it from the documentation of Lightning, timm and torchvision.

Images are decoded and augmented in DataLoader workers, every epoch anew. Frozen parameters have requires_grad off
and frozen BatchNorm stays in eval mode; tensors are in torch's default, contiguous format.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassF1Score
from torchvision.transforms import v2

from transferline.artifacts import ManifestRow
from transferline.model import backbones, weights


def transforms(size: int, train: bool, spec: backbones.Spec) -> v2.Compose:
    augment = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomApply([v2.ColorJitter(contrast=0.15)], 0.5)]
    return v2.Compose(
        [
            v2.Resize((size, size), antialias=True),
            *(augment if train else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )


class Images(Dataset[tuple[Tensor, int]]):
    """Files decoded on access, as torchvision's ImageFolder does."""

    def __init__(self, rows: Sequence[ManifestRow], root: Path, classes: list[str], transform: v2.Compose) -> None:
        self.files = [(root / row.path, classes.index(row.label)) for row in rows]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


class Plain(pl.LightningModule):
    """The library's own model with a new head; the first `depth` blocks are frozen."""

    def __init__(self, name: str, classes: int, depth: int, lr: float) -> None:
        super().__init__()
        spec = backbones.spec(name)
        model = spec.create()
        weights.load_weights(model, spec, "pretrained")
        blocks = spec.cut(model)
        self.frozen = nn.Sequential(*blocks[:depth]).requires_grad_(False)
        self.trained = nn.Sequential(*blocks[depth:])
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(spec.feature_dim, classes)
        )
        self.lr, self.depth = lr, depth
        self.loss = nn.CrossEntropyLoss()
        self.f1 = MulticlassF1Score(classes, average="macro")

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.frozen(images)
        logits: Tensor = self.head(self.trained(features))
        return logits

    def on_train_epoch_start(self) -> None:
        self.frozen.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss: Tensor = self.loss(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.f1(self(images), labels)
        self.log("val_macro_f1", self.f1)

    def configure_optimizers(self) -> Any:
        groups = []
        for part, lr in ((self.head, self.lr), (self.trained, 0.8 * self.lr)):
            for decay in (0.01, 0.0):  # none on norms and biases
                weights = [weight for weight in part.parameters() if (weight.ndim > 1) == (decay > 0)]
                if weights:
                    groups.append({"params": weights, "lr": lr, "weight_decay": decay})
        optimizer = torch.optim.AdamW(groups)
        peaks = [group["lr"] for group in optimizer.param_groups]
        steps = max(int(self.trainer.estimated_stepping_batches), 5)  # OneCycleLR divides by zero where 4 * 0.25 is 1
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.25)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Best(Callback):
    """The best validation score of a trial."""

    def __init__(self) -> None:
        self.score = 0.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.score = max(self.score, float(trainer.callback_metrics["val_macro_f1"]))


@dataclass
class Training:
    """What all trials share: images, network, length."""

    train_rows: Sequence[ManifestRow]
    val_rows: Sequence[ManifestRow]
    root: Path
    backbone: str
    epochs: int
    seed: int
    callbacks: Sequence[Callback]

    def objective(self, trial: optuna.Trial) -> float:
        """Best macro-F1 on validation, of one trial."""
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        batch_size = trial.suggest_categorical("batch_size", [32, 64])
        spec = backbones.spec(self.backbone)
        depth = trial.suggest_int("depth", 0, spec.depth)
        pl.seed_everything(self.seed, verbose=False)
        classes = sorted({row.label for row in self.train_rows})
        best = Best()
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=self.epochs,
                callbacks=[best, ModelCheckpoint(folder, monitor="val_macro_f1", mode="max"), *self.callbacks],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            loaders = self.loader(self.train_rows, classes, batch_size), self.loader(self.val_rows, classes, 64, False)
            trainer.fit(Plain(self.backbone, len(classes), depth, lr), *loaders)
        return best.score

    def loader(
        self, rows: Sequence[ManifestRow], classes: list[str], batch_size: int, training: bool = True
    ) -> DataLoader[tuple[Tensor, int]]:
        spec = backbones.spec(self.backbone)
        images = Images(rows, self.root, classes, transforms(spec.input_size, training, spec))
        return DataLoader(
            images, batch_size, shuffle=training, num_workers=os.cpu_count() or 1, persistent_workers=True
        )
