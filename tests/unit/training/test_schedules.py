"""The rate from step to step."""

import math

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from transferline.fitting import Fit
from transferline.training.schedules import make_schedule

LENGTHS, WARMUPS, BOTH = (1, 2, 3, 5, 100), (0.0, 0.01, 0.25, 0.5, 1.0), ("onecycle", "cosine")


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1))


def follow(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> np.ndarray:
    """The rate of each group in each step [steps, groups]."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return np.array(rates)


def rates(name: str, steps: int, warmup: float, peaks: tuple[float, ...] = (1.0,)) -> np.ndarray:
    optimizer = Adam([{"params": [weight()], "lr": peak} for peak in peaks])
    made = make_schedule(optimizer, Fit.model_validate({"schedule": name, "warmup": warmup}), steps)
    assert made is not None
    assert made["interval"] == "step"
    return follow(optimizer, made["scheduler"], steps)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", BOTH)
def test_every_group_reaches_its_own_rate_once_and_never_stands_still(name: str, steps: int, warmup: float) -> None:
    found = rates(name, steps, warmup, peaks=(0.4, 0.1))
    np.testing.assert_allclose(found.max(axis=0), [0.4, 0.1])
    np.testing.assert_allclose(found[:, 0], 4 * found[:, 1])
    peak = int(found[:, 0].argmax())
    assert peak == max(round(warmup * steps), 1) - 1
    assert np.all(np.diff(found[: peak + 1], axis=0) > 0)
    assert np.all(np.diff(found[peak:], axis=0) < 0)
    assert np.all(found > 0)


@pytest.mark.parametrize("name", BOTH)
def test_a_training_of_one_or_two_steps_trains(name: str) -> None:
    assert rates(name, 1, 0.25)[:, 0] == pytest.approx([1.0])
    assert rates(name, 2, 0.25)[:, 0] == pytest.approx([1.0, 0.5])
    assert rates(name, 2, 1.0)[:, 0] == pytest.approx([0.04 if name == "onecycle" else 0.5, 1.0])


def test_cosine_rises_linearly_then_falls_as_a_half_cosine() -> None:
    found = rates("cosine", 20, 0.25)[:, 0]
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[12] == pytest.approx(0.5)
    assert found[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 16)))


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.5])
def test_a_long_onecycle_is_torchs(warmup: float) -> None:
    """The peak is at most one step elsewhere, and so is the end; a half cosine's slope is at most pi / 2."""
    steps = 1000
    optimizer = SGD([weight()], lr=1.0)
    torchs = OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    expected = follow(optimizer, torchs, steps)
    bound = math.pi / 2 / (steps * min(warmup, 1 - warmup))
    np.testing.assert_allclose(rates("onecycle", steps, warmup), expected, rtol=0, atol=bound)


def test_momentum_and_betas_stay_as_configured() -> None:
    sgd = SGD([weight()], lr=1.0, momentum=0.6)
    adam = Adam([weight()], lr=1.0)
    adagrad = Adagrad([weight()], lr=1.0)
    for optimizer in (sgd, adam, adagrad):
        made = make_schedule(optimizer, Fit(), steps=10)
        assert made is not None
        follow(optimizer, made["scheduler"], 5)
    assert sgd.param_groups[0]["momentum"] == 0.6
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
