"""The same time for every trial: what a depth costs here is measured, and the budget divided by it."""

import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch

from transferline.model.classifier import Classifier, pick_device
from transferline.training.data import Batch, Behind, Splits, ViewData
from transferline.training.fit import make_trainee
from transferline.training.optimisers import make_optimizer
from transferline.tuning import Tune

_STEPS = 3  # timed, after one that warms up


@dataclass(frozen=True)
class Cost:
    """Seconds an image, trained on and validated on."""

    train: float
    val: float


def measure(classifier: Classifier, splits: Splits, behind: Behind | None, config: Tune, batch_size: int) -> Cost:
    """Time some steps, and a batch of validation, on a copy of `classifier`, on the device it would train on."""
    module = make_trainee(deepcopy(classifier), splits, config, lr=1e-3, seed=0, behind=behind).to(pick_device())
    optimizer = make_optimizer(module.net, config, 1e-3)
    data = ViewData(splits, batch_size, 0, behind=behind)

    def train(batch: Batch, number: int) -> None:
        here = batch[0].to(module.device), batch[1].to(module.device), batch[2]
        logits, targets = module.answers(data.drawn(here, 0), 0, number)
        loss = module.loss(logits, targets) + module.penalty()
        torch.autograd.backward(loss)
        if (number + 1) % config.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for a GPU

    seconds, images = 0.0, 0
    for number, batch in enumerate(islice(data.train_dataloader(), 1 + _STEPS)):
        start = time.perf_counter()
        train(batch, number)
        if number or len(data.train_dataloader()) == 1:
            seconds, images = seconds + time.perf_counter() - start, images + len(batch[1])
    module.eval()
    stored, labels, _ = next(iter(data.val_dataloader()))
    start = time.perf_counter()
    with torch.inference_mode():
        module.logits(stored.to(module.device)).sum().item()
    return Cost(seconds / images, (time.perf_counter() - start) / len(labels))


def spend(cost: Cost, splits: Splits, config: Tune) -> tuple[Tune, float]:
    """Whole epochs that fill `config.seconds`, and the share of the training images in each.

    Where not even one epoch of `config.train_fraction` fits, one of fewer images is taken.
    """
    images, validation = config.train_fraction * len(splits.train.labels), cost.val * len(splits.val.labels)
    epochs = round(config.seconds / (images * cost.train + validation))
    if epochs >= 1:
        return config.model_copy(update={"epochs": epochs}), config.train_fraction
    fits = max(config.seconds - validation, 0.0) / (len(splits.train.labels) * cost.train)
    return config.model_copy(update={"epochs": 1}), min(max(fits, 0.01), config.train_fraction)
