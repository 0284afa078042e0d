"""Beside the steps: which blocks move in which epoch, and which weights are kept."""

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.conftest import ListRecorder
from tests.unit.training.exact import CLOSE, METRIC, exactly, round_boundary
from transferline.artifacts import ModelCard
from transferline.fitting import Finetune, Fit
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations
from transferline.training.callbacks import Averaging, Unfreezing
from transferline.training.data import Behind, Splits, embed
from transferline.training.fit import History, fit
from transferline.training.module import Trainee

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.0)
Net = classifier.Classifier
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def fresh() -> Net:
    """In double precision, as all that is trained here."""
    return classifier.build(CARD, "none", seed=0).double()


def copied(net: Any) -> State:
    return {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}


@dataclass
class Watch(pl.Callback):
    """The whole classifier's state before training, after each step and each epoch, and the optimiser's groups."""

    net: Net
    steps: list[State] = field(default_factory=list)
    epochs: list[State] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(copied(self.net))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(copied(self.net))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(copied(self.net))
        self.groups.append([group["name"] for group in trainer.optimizers[0].param_groups])


def watched(
    fresh: Net, splits: Splits, config: Fit, depth: int, callbacks: tuple[pl.Callback, ...] = (), kept: bool = False
) -> tuple[Net, History, Watch]:
    net = deepcopy(fresh)
    round_boundary(net, depth)
    net.freeze(depth)
    behind: Behind | None = None
    if kept:
        behind = embed(Cache(Activations(engine="torch", dtype="float32"), Path("cache")), net, splits, {depth})[depth]
    watch, settings = Watch(net), {"lr": 3e-3, "batch_size": 16, "seed": 1, "label": "test"}
    history = fit(
        net, splits, exactly(config), recorder=ListRecorder(), behind=behind, callbacks=[*callbacks, watch], **settings
    )
    return net, history, watch


# --- gradual unfreezing ---------------------------------------------------------------------


def moved(before: State, after: State) -> set[int]:
    """Blocks of which any weight or statistic differs."""
    keys = [key for key in after if key.startswith("blocks.") and not torch.equal(before[key], after[key])]
    return {int(key.split(".")[1]) for key in keys}


@pytest.mark.parametrize(
    ("blocks", "depth", "over", "epochs", "expected"),
    [
        (13, 10, None, 4, [12, 11, 10, 10]),
        (13, 10, None, 3, [12, 11, 10]),
        (13, 3, None, 4, [10, 8, 5, 3]),
        (13, 3, 2, 4, [8, 3, 3, 3]),
        (13, 10, 6, 7, [12, 12, 11, 11, 10, 10, 10]),
        (13, 13, None, 2, [13, 13]),
        (13, 0, 1, 2, [0, 0]),
    ],
)
def test_blocks_are_unfrozen_evenly(
    blocks: int, depth: int, over: int | None, epochs: int, expected: list[int]
) -> None:
    unfreezing = Unfreezing(blocks, depth, over)
    assert [unfreezing.frozen(epoch, epochs) for epoch in range(epochs)] == expected


@pytest.mark.parametrize("kept", [False, True], ids=["recomputed", "kept"])
def test_each_epoch_moves_the_blocks_that_are_unfrozen_and_no_statistic_below(
    fresh: Net, splits: Splits, kept: bool
) -> None:
    config = Finetune(epochs=4, early_stopping=None, schedule="constant", weight_decay=0.5, l2=0.01)
    net, _, watch = watched(fresh, splits, config, 10, (Unfreezing(13, 10, None),), kept)
    epochs = pairwise(watch.epochs)
    assert [moved(before, after) for before, after in epochs] == [{12}, {11, 12}, {10, 11, 12}, {10, 11, 12}]
    names = [
        name for part in ("head", "block 13", "block 12", "block 11") for name in (part, f"{part}, norms and biases")
    ]
    assert watch.groups == [names] * 4
    assert net.freeze_depth == 10


def test_stopped_halfway_the_depth_is_the_tuned_one_all_the_same(fresh: Net, splits: Splits) -> None:
    config = Finetune(epochs=3, early_stopping=1, schedule="constant", monitor="loss")
    net, history, _ = watched(fresh, splits, config, 10, (Unfreezing(13, 10, 3), Worse()))
    assert len(history.epochs) == 2
    assert net.freeze_depth == 10
    assert {weight.requires_grad for weight in net.blocks[10].parameters()} == {True}


class Worse(pl.Callback):
    """Makes the loss of every epoch but the first a large one."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch:
            with torch.no_grad():
                pl_module.net.head.linear.bias += torch.tensor([1000.0 * trainer.current_epoch, 0.0, 0.0])


def test_behind_what_is_kept_unfreezing_is_the_same(fresh: Net, splits: Splits) -> None:
    config = Finetune(epochs=3, early_stopping=None, schedule="constant", optimizer="sgd", label_smoothing=0.0)
    ways = [watched(fresh, splits, config, 10, (Unfreezing(13, 10, None),), kept) for kept in (False, True)]
    for one, other in zip(ways[0][1].epochs, ways[1][1].epochs, strict=True):
        assert one == pytest.approx(other, rel=METRIC)


# --- averaged weights -----------------------------------------------------------------------


def averaged_by_hand(watch: Watch, decay: float, steps: int) -> State:
    kept = {key: value.double() for key, value in watch.steps[0].items()}
    for count, state in enumerate(watch.steps[1:steps], 1):
        now = min(decay, (1 + count) / (10 + count))
        kept = {key: now * kept[key] + (1 - now) * value.double() for key, value in state.items()}
    return kept


@pytest.mark.parametrize("kept", [False, True], ids=["recomputed", "kept"])
def test_what_is_kept_and_validated_is_the_average(fresh: Net, splits: Splits, kept: bool) -> None:
    config = Fit(epochs=3, ema=0.6, monitor="loss", early_stopping=None, schedule="constant")
    net, history, watch = watched(fresh, splits, config, 10, kept=kept)
    expected = averaged_by_hand(watch, 0.6, 3 * (history.best_epoch + 1))
    state = net.state_dict()
    for key, value in expected.items():
        if state[key].is_floating_point():
            torch.testing.assert_close(state[key], value, rtol=CLOSE, atol=CLOSE)
    assert not torch.equal(state["head.linear.weight"], watch.epochs[history.best_epoch + 1]["head.linear.weight"])
    logits = torch.from_numpy(classifier.predict_logits(net, splits.val.images[:, 0], 15))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(splits.val.labels))
    assert float(loss) == pytest.approx(history.best["val_loss"], rel=METRIC)


def test_averaging_leaves_training_itself_alone(fresh: Net, splits: Splits) -> None:
    config = Fit(epochs=2, early_stopping=None)
    _, _, plain = watched(fresh, splits, config, 10)
    _, _, other = watched(fresh, splits, config.model_copy(update={"ema": 0.9}), 10)
    assert all(torch.equal(value, other.epochs[-1][key]) for key, value in plain.epochs[-1].items())


def test_what_is_frozen_is_not_rounded_by_averaging(fresh: Net, splits: Splits) -> None:
    net, _, _ = watched(fresh, splits, Fit(epochs=2, ema=0.97), 11)
    before, after = fresh.state_dict(), net.state_dict()
    frozen = [key for key in before if key.startswith("blocks.") and int(key.split(".")[1]) < 11]
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)


def test_the_average_is_of_steps_and_not_of_batches(fresh: Net, splits: Splits) -> None:
    """Three batches an epoch, accumulated by two, are two steps."""
    config = Fit(epochs=2, ema=0.6, accumulate=2, monitor="train_loss", early_stopping=None, schedule="constant")
    net, history, watch = watched(fresh, splits, config, 10)
    watch.steps = [watch.steps[number] for number in (1, 2, 4, 5)]
    expected = averaged_by_hand(watch, 0.6, 2 * (history.best_epoch + 1))
    weight = expected["head.linear.weight"]
    torch.testing.assert_close(net.head.linear.weight.detach(), weight, rtol=CLOSE, atol=CLOSE)


def test_the_decay_rises_with_the_steps() -> None:
    average = Averaging(0.9)._kwargs["avg_fn"]
    for count, expected in ((1, 2 / 11), (8, 0.5), (1000, 0.9)):
        for steps in (count, torch.tensor(count)):
            torch.testing.assert_close(average(torch.ones(1), torch.zeros(1), steps), torch.tensor([expected]))


def test_the_average_follows_the_module_to_its_device(fresh: Net) -> None:
    module, averaging = Trainee(deepcopy(fresh), Fit(), 0.1, None), Averaging(0.9)
    averaging.setup(pl.Trainer(logger=False, accelerator="cpu"), module, "fit")
    averaging.on_fit_start(pl.Trainer(logger=False, accelerator="cpu"), module.to("meta"))
    assert averaging._average_model is not None
    assert {weight.device.type for weight in averaging._average_model.parameters()} == {"meta"}
