"""One training loop: it learns, it repeats itself, frozen stays frozen."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from tests.conftest import ListRecorder
from transferline.artifacts import ModelCard
from transferline.model import classifier
from transferline.sections import Finetune, Fit
from transferline.training.data import Splits
from transferline.training.fit import History, class_weights, fit, pick_precision

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
    config = Finetune(epochs=8, early_stopping=None, monitor="loss")
    _, history = trained(fresh, splits, config, recorder=recorder)
    assert history.epochs[-1]["train_loss"] < 0.7 * history.epochs[0]["train_loss"]
    assert [step for step, _ in recorder.metrics] == list(range(8))
    assert set(recorder.metrics[0][1]) == {"lr", "train_loss", "val_loss", "val_accuracy", "val_macro_f1"}
    assert history.best["val_loss"] == min(row["val_loss"] for row in history.epochs)


def test_the_weights_kept_are_those_of_the_best_epoch(fresh: Net, splits: Splits) -> None:
    net, history = trained(fresh, splits, Finetune(epochs=3, monitor="loss", schedule="constant"), lr=0.05)
    logits = torch.from_numpy(classifier.predict_logits(net, splits.val.images[:, 0], 15))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(splits.val.labels))
    assert float(loss) == pytest.approx(history.best["val_loss"], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fresh: Net, splits: Splits) -> None:
    first, again, other = (trained(fresh, splits, Fit(epochs=1), seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("depth", [3, 13])
def test_frozen_blocks_are_bit_identical_batchnorm_included(fresh: Net, splits: Splits, depth: int) -> None:
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    net, _ = trained(fresh, splits, Fit(epochs=2, l2=0.01, weight_decay=0.5), depth=depth)
    after = net.state_dict()
    frozen = {key for key in after if key.startswith(tuple(f"blocks.{index}." for index in range(depth)))}
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert all(not torch.equal(before[key], after[key]) for key in set(after) - frozen)


CHOICES = [
    *({"schedule": name} for name in ("onecycle", "cosine", "step", "plateau", "constant")),
    *({"optimizer": name} for name in ("adam", "sgd")),
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


def test_a_single_step_is_enough(fresh: Net, splits: Splits) -> None:
    _, history = trained(fresh, splits, Fit(epochs=1), depth=13, batch_size=64)
    assert len(history.epochs) == 1


def test_balanced_weights_are_inverse_to_counts(splits: Splits) -> None:
    rows = [0, 1, 2, 3, 6, 9]  # four of class 0, one each of 1 and 2
    few = splits.train.__class__(
        splits.train.images[rows],
        splits.train.labels[rows],
        [splits.train.paths[row] for row in rows],
        splits.train.classes,
    )
    weights = class_weights(few, Fit(class_weights="balanced"))
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
    assert class_weights(few, Fit()) is None


def test_precision_is_bf16_on_a_gpu_that_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert pick_precision(Fit()) == "bf16-mixed"
    assert pick_precision(Fit(accelerator="cpu")) == "32-true"
    assert pick_precision(Fit(precision="16-mixed")) == "16-mixed"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert pick_precision(Fit()) == "32-true"
