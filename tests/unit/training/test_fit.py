"""One training loop: it learns, it repeats itself, frozen stays frozen."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import ListRecorder
from tests.unit.training.exact import CLOSE, METRIC, exactly
from transferline.artifacts import Arrays, ModelCard
from transferline.fitting import Finetune, Fit
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations
from transferline.training.data import Splits, embed
from transferline.training.fit import History, fit, pick_precision
from transferline.training.scores import LOGGED, MONITORS

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
Net = classifier.Classifier


@pytest.fixture(scope="module")
def fresh() -> Net:
    return classifier.build(CARD, "none", seed=0)


def trained(net: Net, splits: Splits, config: Fit, depth: int = 2, **options: Any) -> tuple[Net, History]:
    copy = deepcopy(net)
    copy.freeze(depth)
    settings: dict[str, Any] = {"lr": 3e-3, "batch_size": 16, "seed": 1, "recorder": ListRecorder()}
    return copy, fit(copy, splits, config, label="test", **settings | options)


def test_it_learns_and_every_epoch_is_recorded(fresh: Net, splits: Splits) -> None:
    recorder = ListRecorder()
    config = Finetune(epochs=8, batchnorm="train")
    _, history = trained(fresh, splits, config, recorder=recorder)
    assert history.epochs[-1]["train_loss"] < 0.7 * history.epochs[0]["train_loss"]
    assert [step for step, _ in recorder.metrics] == list(range(8))
    assert set(recorder.metrics[0][1]) == {"lr", *LOGGED}
    assert history.best["val_loss"] == min(row["val_loss"] for row in history.epochs)
    assert 0 < history.epochs[-1]["lr"] < 3e-3 / 100  # onecycle ends near nothing


def test_the_weights_kept_are_those_of_the_best_epoch(fresh: Net, splits: Splits) -> None:
    config = exactly(Finetune(epochs=3, monitor="loss", schedule="constant"))
    net, history = trained(deepcopy(fresh).double(), splits, config, lr=0.05)
    logits = torch.from_numpy(classifier.predict_logits(net, splits.val.images[:, 0], 15))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(splits.val.labels))
    assert float(loss) == pytest.approx(history.best["val_loss"], rel=METRIC)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fresh: Net, splits: Splits) -> None:
    first, again, other = (trained(fresh, splits, Fit(epochs=1), seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("depth", [3, 13])
def test_frozen_blocks_are_bit_identical_batchnorm_included(fresh: Net, splits: Splits, depth: int) -> None:
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    net, _ = trained(fresh, splits, Fit(epochs=2, l2=0.01, weight_decay=0.5, batchnorm="train"), depth=depth)
    after = net.state_dict()
    frozen = {key for key in after if key.startswith(tuple(f"blocks.{index}." for index in range(depth)))}
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert all(not torch.equal(before[key], after[key]) for key in set(after) - frozen - {"head.mean", "head.scale"})


CHOICES = [
    *({"schedule": name} for name in ("onecycle", "cosine", "step", "plateau", "constant")),
    *({"optimizer": name} for name in ("adam", "sgd", "rmsprop", "adagrad", "lamb", "timm/lion")),
    {"loss": "focal", "sampling": "balanced", "layer_decay": 0.7},
    {"mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "accumulate": 2, "batchnorm": "frozen"},
    {"class_weights": "balanced", "l1": 1e-6, "channels_last": False, "gradient_clip": None},
]


def test_a_classifier_that_comes_in_eval_mode_is_trained_as_any_other(fresh: Net, splits: Splits) -> None:
    first, _ = trained(deepcopy(fresh).train(), splits, Fit(epochs=1))
    again, _ = trained(deepcopy(fresh).eval(), splits, Fit(epochs=1))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_trains(fresh: Net, splits: Splits, choice: dict[str, Any]) -> None:
    net, history = trained(fresh, splits, Fit(epochs=2, **choice), depth=12)
    assert len(history.epochs) == 2
    assert not torch.equal(net.head.linear.weight, fresh.head.linear.weight)


def test_training_stops_early(fresh: Net, splits: Splits) -> None:
    _, history = trained(fresh, splits, Fit(epochs=9, early_stopping=1, schedule="constant"), lr=1e-12, depth=13)
    assert len(history.epochs) == 2


def test_a_single_step_is_enough_and_runs_at_the_full_rate(fresh: Net, splits: Splits) -> None:
    _, history = trained(fresh, splits, Fit(epochs=1), depth=13, batch_size=64)
    assert [row["lr"] for row in history.epochs] == [3e-3]


def test_precision_is_bf16_on_a_gpu_that_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert pick_precision(Fit()) == "bf16-mixed"
    assert pick_precision(Fit(accelerator="cpu")) == "32-true"
    assert pick_precision(Fit(precision="16-mixed")) == "16-mixed"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert pick_precision(Fit()) == "32-true"


# --- accumulated batches --------------------------------------------------------------------


class Steps(pl.Callback):
    """How many steps the optimiser took, and how many the schedule was made for."""

    steps = planned = 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps = trainer.global_step
        self.planned = trainer.estimated_stepping_batches


def frozen_norms(accumulate: int, **options: Any) -> Fit:
    """Arithmetic in which a batch is the mean of its images: no statistics of batches."""
    choices = {"batchnorm": "frozen", "accumulate": accumulate, "optimizer": "sgd", "epochs": 2, "momentum": 0.0}
    return Fit.model_validate(choices | {"weight_decay": 0.1, "l2": 0.01, "schedule": "cosine"} | options)


@pytest.mark.parametrize("images", [48, 42])
def test_accumulated_batches_are_one_bigger_batch(fresh: Net, splits: Splits, images: int) -> None:
    """42 images in batches of 4 are 11, the last of 2; accumulated by 4 they are three steps, the last of 10 images."""
    net = deepcopy(fresh).double()
    net.head.set_dropout(0.0)
    train = replace(splits.train, images=splits.train.images[:images], labels=splits.train.labels[:images])
    few = splits._replace(train=train)
    small, large = Steps(), Steps()
    options: dict[str, Any] = {"depth": 10, "lr": 0.05}
    one, _ = trained(net, few, exactly(frozen_norms(4)), batch_size=4, callbacks=[small], **options)
    other, _ = trained(net, few, exactly(frozen_norms(1)), batch_size=16, callbacks=[large], **options)
    assert small.steps == large.steps == small.planned == large.planned == 6
    moved = 0
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=CLOSE, atol=CLOSE)
        moved += not torch.equal(value, net.state_dict()[key])
    assert moved > 10


# --- norms of trained blocks ----------------------------------------------------------------


def settled(net: Net, splits: Splits) -> Net:
    """With the statistics of what it sees, as a net that was trained: fresh ones let next to nothing through."""
    copy = deepcopy(net).train()
    for module in copy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, so that one is enough
    with torch.no_grad():
        copy(torch.from_numpy(splits.train.images[:, 0]).permute(0, 3, 1, 2).float())
    return copy


@pytest.mark.parametrize("kept", [False, True], ids=["recomputed", "kept"])
def test_frozen_batchnorm_keeps_its_statistics_and_trains_the_rest(
    fresh: Net, splits: Splits, tmp_path: Path, kept: bool
) -> None:
    source = settled(fresh, splits)
    source.freeze(10)
    behind = embed(Cache(Activations(engine="torch"), tmp_path / "c"), source, splits, {10})[10] if kept else None
    net, _ = trained(source, splits, Fit(epochs=2, batchnorm="frozen"), depth=10, behind=behind)
    before, after = source.state_dict(), net.state_dict()
    statistics = [key for key in after if "running_" in key or "num_batches" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    above = [key for key in after if key.startswith(("blocks.10.", "blocks.11.", "blocks.12.", "head."))]
    still = {key for key in above if key not in statistics and torch.equal(before[key], after[key])}
    assert still == {"head.mean", "head.scale"}  # what the features are standardised by
    assert not net.frozen_statistics


# --- when to stop ---------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", [name for name in MONITORS if name not in ("train_loss", "train_accuracy")])
def test_training_stops_early_on_any_metric(fresh: Net, splits: Splits, monitor: Any) -> None:
    """With next to no learning rate, no metric of validation gets better."""
    config = Fit(epochs=9, early_stopping=1, early_stopping_monitor=monitor, schedule="constant")
    _, history = trained(fresh, splits, config, lr=1e-12, depth=13)
    assert len(history.epochs) == 2


def test_what_stops_is_not_what_is_best(fresh: Net, splits: Splits) -> None:
    """The loss of training falls on where that of validation does not; the best weights go by the latter."""
    config = Fit(epochs=6, monitor="loss", early_stopping=1, schedule="constant", early_stopping_monitor="train_loss")
    _, history = trained(fresh, splits, config, lr=0.01, depth=12)
    losses = [row["val_loss"] for row in history.epochs]
    assert history.best["val_loss"] == min(losses)
    training = [row["train_loss"] for row in history.epochs]
    fell = [after < before for before, after in pairwise(training)]
    assert len(history.epochs) == 6 or fell[-1] is False
    assert all(fell[:-1])


def test_the_weights_kept_may_be_those_of_the_best_training_loss(fresh: Net, splits: Splits) -> None:
    _, history = trained(fresh, splits, Fit(epochs=4, monitor="train_loss", early_stopping=None), lr=0.01, depth=12)
    assert history.best["train_loss"] == min(row["train_loss"] for row in history.epochs)


# --- several labels an image ----------------------------------------------------------------


@pytest.mark.parametrize("choice", [{}, {"loss": "focal"}, {"sampling": "balanced"}, {"class_weights": "balanced"}])
def test_several_labels_are_learnt(fresh: Net, splits: Splits, choice: dict[str, Any]) -> None:
    """A class is there where its channel is bright; the first image of each three has a second one."""
    several = splits._replace(train=labelled(splits.train), val=labelled(splits.val))
    config = Finetune.model_validate({"epochs": 12, "batchnorm": "train"} | choice)
    _, history = trained(fresh, several, config, depth=2, lr=5e-3)
    assert set(history.epochs[0]) == {"lr", *LOGGED}
    assert history.epochs[-1]["train_loss"] < 0.8 * history.epochs[0]["train_loss"]
    assert history.epochs[-1]["train_accuracy"] > 0.75


def labelled(arrays: Arrays) -> Arrays:
    labels = np.eye(3, dtype=np.int64)[arrays.labels]
    images = arrays.images.copy()
    images[::3, ..., 2] = np.minimum(images[::3, ..., 2].astype(int) + 100, 255)
    labels[::3, 2] = 1
    return replace(arrays, images=images, labels=labels)
