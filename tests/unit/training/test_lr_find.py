"""The range test: rates rise, the loss is recorded, divergence ends it, nothing but activations is left behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferline.artifacts import ModelCard
from transferline.errors import UserError
from transferline.fitting import Finetune
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.on_demand import LrFind
from transferline.sections import Activations, Model
from transferline.training import lr_find
from transferline.training.data import Splits
from transferline.training.lr_report import Curve
from transferline.tuning import Start

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
MODEL = Model(backbone="mobilenet_v3_small", weights="none")


def swept(splits: Splits, config: Finetune | None = None, seed: int = 1, **options: Any) -> Curve:
    net = classifier.build(CARD, "none", seed=0)
    chosen = LrFind(**{"min_lr": 1e-5, "max_lr": 1.0, "steps": 60} | options)
    return lr_find.sweep(net, splits, config or Finetune(batchnorm="train"), chosen, batch_size=16, seed=seed)


def test_the_loss_is_recorded_at_rates_that_grow_by_the_same_factor(splits: Splits) -> None:
    curve = swept(splits)
    assert curve.rates[0] == pytest.approx(1e-5)
    np.testing.assert_allclose(np.diff(np.log(curve.rates)), np.log(1e5) / 59)
    assert len(curve.losses) == len(curve.rates) <= 60
    found = curve.required()
    assert 1e-5 < found.low <= found.lr <= found.high < 0.1
    assert curve.losses[0] == pytest.approx(np.log(3), abs=0.3)  # nothing is known yet


def test_the_same_seed_gives_the_same_curve(splits: Splits) -> None:
    first, again, other = swept(splits), swept(splits), swept(splits, seed=2)
    np.testing.assert_array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses[:10], other.losses[:10])


def test_divergence_ends_the_test_early(splits: Splits) -> None:
    curve = swept(splits)
    assert curve.diverged
    assert 40 < len(curve.rates) < 60
    assert curve.losses[-3:].max() > 4 * curve.smoothed().min()
    patient = swept(splits, diverged=1e6)
    assert not patient.diverged
    np.testing.assert_array_equal(patient.losses[: len(curve.losses)], curve.losses)


def test_a_rate_that_is_too_low_changes_nothing_and_is_refused(splits: Splits) -> None:
    curve = swept(splits, min_lr=1e-9, max_lr=1e-8, steps=20)
    assert not curve.diverged
    with pytest.raises(UserError, match="the loss did not fall"):
        curve.required()


def test_the_backbone_moves_at_its_own_share_of_the_rate(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    start = lr_find._Sweep.on_train_batch_start

    def watched(self: Any, trainer: Any, *rest: Any) -> None:
        start(self, trainer, *rest)
        seen.append(sorted({group["lr"] for group in trainer.optimizers[0].param_groups}))

    monkeypatch.setattr(lr_find._Sweep, "on_train_batch_start", watched)
    curve = swept(splits, Finetune(backbone_lr_factor=0.25), steps=20, max_lr=1e-3)
    np.testing.assert_allclose(seen, np.stack([0.25 * curve.rates, curve.rates], axis=1))


def test_accumulated_batches_are_one_step(splits: Splits) -> None:
    whole = swept(splits, Finetune(label_smoothing=0.0), steps=20, max_lr=1e-3)
    parts = swept(splits, Finetune(label_smoothing=0.0, accumulate=2), steps=20, max_lr=1e-3)
    assert len(parts.losses) == len(whole.losses) == 20
    assert parts.losses[0] == pytest.approx(whole.losses[:2].mean(), abs=0.15)


def test_from_the_configuration_nothing_but_activations_is_written(splits: Splits, project: Path) -> None:
    options = LrFind(min_lr=1e-4, max_lr=1.0, steps=20)
    cache = Cache(Activations(engine="torch"), project / "cache")
    start = Start(batch_size=16, freeze_depth=12)
    curve = lr_find.find(splits, MODEL, Finetune(), options, start=start, seed=1, cache=cache)
    uncached = Cache(Activations(mode="off"), project / "off")
    plain = lr_find.find(splits, MODEL, Finetune(), options, start=start, seed=1, cache=uncached)
    np.testing.assert_allclose(curve.losses[:5], plain.losses[:5], rtol=1e-2)
    assert {path.name for path in project.iterdir()} == {"cache"}
    assert len(list((project / "cache").glob("*/depth_12/activations.npy"))) == 2  # train and val


def test_a_depth_beyond_the_backbone_is_refused(splits: Splits, project: Path) -> None:
    cache = Cache(Activations(), project / "cache")
    with pytest.raises(UserError, match="freeze_depth: 14 is out of range"):
        lr_find.find(splits, MODEL, Finetune(), LrFind(), start=Start(freeze_depth=14), seed=1, cache=cache)
