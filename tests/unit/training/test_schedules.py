"""The rate from step to step."""

import math

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam

from transferline.fitting import Fit
from transferline.training.schedules import cosine, make_schedule


def test_cosine_rises_then_falls_to_zero() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = cosine(optimizer, steps=20, warmup=0.25), []
    for _ in range(21):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[12] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 15)))
    assert rates[20] == pytest.approx(0.0, abs=1e-9)


def test_onecycle_peaks_at_each_groups_own_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = Adam([{"params": weights[:1], "lr": 0.4}, {"params": weights[1:], "lr": 0.1}])
    made = make_schedule(optimizer, Fit(warmup=0.25), steps=20)
    assert made is not None
    peaks = [0.0, 0.0]
    for _ in range(20):
        peaks = [max(peak, group["lr"]) for peak, group in zip(peaks, optimizer.param_groups, strict=True)]
        optimizer.step()
        made["scheduler"].step()
    assert peaks == pytest.approx([0.4, 0.1])


def test_onecycle_cycles_adams_betas_but_leaves_momentum_as_configured() -> None:
    sgd = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.6)
    adam = Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    adagrad = Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for optimizer in (sgd, adam, adagrad):
        assert make_schedule(optimizer, Fit(), steps=10) is not None
    assert sgd.param_groups[0]["momentum"] == 0.6
    assert adam.param_groups[0]["betas"][0] == 0.95
