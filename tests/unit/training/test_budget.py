"""The same time for every trial: what a depth costs, and what a budget buys of it."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from transferline.artifacts import Arrays, ModelCard
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations
from transferline.training import budget
from transferline.training.budget import Cost, measure, spend
from transferline.training.data import Behind, Splits, embed
from transferline.tuning import Tune

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
Net = classifier.Classifier


@pytest.fixture(scope="module")
def fresh() -> Net:
    return classifier.build(CARD, "none", seed=0)


@pytest.fixture(scope="module")
def hundred(colour_arrays: Callable[..., Arrays]) -> Splits:
    """100 images to train on, 20 to validate on."""
    return Splits(colour_arrays(100), colour_arrays(20, seed=1))


def behind_blocks(net: Net, splits: Splits, folder: Path) -> Behind:
    return embed(Cache(Activations(engine="torch"), folder), net, splits, {net.freeze_depth})[net.freeze_depth]


@pytest.mark.parametrize("kept", [False, True], ids=["recomputed", "kept"])
def test_costs_are_positive_and_measuring_them_trains_nothing(
    fresh: Net, splits: Splits, tmp_path: Path, kept: bool
) -> None:
    net = deepcopy(fresh)
    net.freeze(6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    behind = behind_blocks(net, splits, tmp_path / "cache") if kept else None
    modes = [module.training for module in net.modules()]
    cost = measure(net, splits, behind, Tune(), batch_size=8)
    assert cost.train > 0
    assert cost.val > 0
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(weight.grad is None for weight in net.parameters())
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize(
    "choice",
    [{"accumulate": 2}, {"accumulate": 9}, {"mixup": 0.2}, {"batchnorm": "frozen"}, {"optimizer": "lamb", "ema": 0.9}],
    ids=str,
)
def test_whatever_is_chosen_is_measured(fresh: Net, splits: Splits, choice: dict[str, Any]) -> None:
    net = deepcopy(fresh)
    net.freeze(10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost = measure(net, splits, None, Tune.model_validate(choice), batch_size=8)
    assert cost.train > 0
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert not net.frozen_statistics


def test_a_single_batch_is_measured_too(fresh: Net, splits: Splits) -> None:
    assert measure(fresh, splits, None, Tune(), batch_size=64).train > 0


class Clock:
    """It shows how many blocks were run, the head for one."""

    def __init__(self, net: Net) -> None:
        self.now = 0
        for part in (*net.blocks, net.head.linear):
            part.register_forward_hook(self._tick)

    def _tick(self, *_: object) -> None:
        self.now += 1

    def __deepcopy__(self, _: object) -> "Clock":
        return self

    def perf_counter(self) -> float:
        return float(self.now)


def test_behind_deeper_blocks_that_are_kept_an_image_costs_less(
    fresh: Net, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 images are three batches, of which the first warms up; 15 to validate on are one."""
    net = deepcopy(fresh)
    monkeypatch.setattr(budget, "time", Clock(net))
    costs, epochs = {}, {}
    for depth in (0, 6, 13):
        net.freeze(depth)
        behind = behind_blocks(net, splits, tmp_path / "cache") if depth else None
        costs[depth] = measure(net, splits, behind, Tune(), batch_size=16)
        config = Tune(budget="seconds", seconds=10 * (3 * 14 + 14), train_fraction=1.0)
        epochs[depth] = spend(costs[depth], splits, config)[0].epochs
    assert costs == {depth: Cost((14 - depth) / 16, (14 - depth) / 15) for depth in (0, 6, 13)}
    assert epochs == {0: 10, 6: round(10 * 14 / 8), 13: 140}


def test_frozen_blocks_that_are_run_every_epoch_are_part_of_the_cost(
    fresh: Net, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = deepcopy(fresh)
    monkeypatch.setattr(budget, "time", Clock(net))
    net.freeze(13)
    assert measure(net, splits, None, Tune(), batch_size=16) == Cost(14 / 16, 14 / 15)


@pytest.mark.parametrize(
    ("cost", "fraction", "available", "epochs", "share"),
    [
        (Cost(0.01, 0.0), 1.0, 10.0, 10, 1.0),
        (Cost(0.01, 0.05), 1.0, 10.0, 5, 1.0),
        (Cost(0.01, 0.05), 0.5, 10.5, 7, 0.5),
        (Cost(0.01, 0.0), 1.0, 2.4, 2, 1.0),
        (Cost(0.01, 0.0), 1.0, 2.6, 3, 1.0),
        (Cost(0.01, 0.0), 1.0, 0.6, 1, 1.0),
        (Cost(0.1, 0.0), 1.0, 2.0, 1, 0.2),
        (Cost(0.1, 0.05), 1.0, 4.0, 1, 0.3),
        (Cost(0.1, 0.0), 0.5, 2.0, 1, 0.2),
        (Cost(0.1, 1.0), 0.5, 11.0, 1, 0.01),
        (Cost(0.1, 0.0), 1.0, 0.01, 1, 0.01),
    ],
)
def test_whole_epochs_fill_the_budget_or_one_of_fewer_images(
    hundred: Splits, cost: Cost, fraction: float, available: float, epochs: int, share: float
) -> None:
    """The last rows: a share, validation first, of all images, validation alone is too long, next to nothing."""
    config = Tune(budget="seconds", seconds=available, train_fraction=fraction, epochs=99)
    spent, found = spend(cost, hundred, config)
    assert found == pytest.approx(share)
    assert spent == config.model_copy(update={"epochs": epochs})


@pytest.mark.parametrize("fraction", [0.005, 0.1, 0.5, 1.0])
def test_the_share_is_never_above_what_was_asked_for(hundred: Splits, fraction: float) -> None:
    for available in (0.001, 0.01, 0.1, 0.4, 0.6, 1.0, 3.0, 30.0):
        config = Tune(budget="seconds", seconds=available, train_fraction=fraction)
        for cost in (Cost(0.01, 0.0), Cost(0.01, 0.01), Cost(0.1, 0.002)):
            spent, share = spend(cost, hundred, config)
            assert 0 < share <= fraction
            assert spent.epochs >= 1
