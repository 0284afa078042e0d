"""train and finetune: the head first, then from the tuned depth up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import ListRecorder
from tests.unit.training.conftest import probed
from transferline.artifacts import FINE_TUNED, FINETUNED, HEAD, WINNER, Best, Candidate, Choice, Plan
from transferline.errors import UserError
from transferline.fitting import Finetune, Train
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations, Head, Model
from transferline.training import stages
from transferline.training.choice import Tried
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.training.scores import LOGGED
from transferline.training.stages import finetune, train_head, with_best

MODEL = Model(backbone="mobilenet_v3_small", weights="none", dropout=0.1)
CACHE = Cache(Activations(mode="off"))
BEST = Best(lr=2e-3, batch_size=16, freeze_depth=6, value=None, study="", run_id="", choices={"dropout": 0.3})


def test_finetune_starts_from_the_trained_head_and_keeps_what_is_frozen(splits: Splits) -> None:
    fresh = classifier.build(
        classifier.ModelCard("mobilenet_v3_small", splits.train.classes, 32, "squash", [0.5] * 3, [0.2] * 3, 0.3),
        "none",
        seed=1,
    ).state_dict()
    run(splits, Train())
    head, card = classifier.load(HEAD)
    assert card.dropout == 0.3
    changed = {key.split(".")[0] for key, value in head.state_dict().items() if not torch.equal(value, fresh[key])}
    assert changed == {"head"}

    run(splits, Train(), Finetune(epochs=1))
    tuned, tuned_card = classifier.load(FINETUNED)
    assert tuned_card == card
    before, after = head.state_dict(), tuned.state_dict()
    moved = {key.rsplit(".", 1)[0] for key in after if not torch.equal(before[key], after[key])}
    assert not [name for name in moved if name.startswith(tuple(f"blocks.{index}." for index in range(6)))]
    assert [name for name in moved if name.startswith("blocks.6.")]
    assert (FINETUNED / "history.csv").read_text().startswith("epoch,train_loss,val_loss")


@pytest.mark.parametrize(("choices", "expected"), [({"weight_decay": 0.2}, 0.2), ({}, 0.01)])
def test_what_was_tuned_goes_before_the_section(choices: dict[str, Any], expected: float) -> None:
    assert with_best(Finetune(weight_decay=0.01), replace(BEST, choices=choices)).weight_decay == expected


def run(splits: Splits, train: Train, tune: Finetune | None = None, best: Best = BEST, **options: Any) -> None:
    """As the stages do after a tune without trials; the fine-tuned weights are taken, whatever validation says."""
    settings: dict[str, Any] = {"best": best, "seed": 1, "cache": CACHE, "recorder": ListRecorder()} | options
    model = settings.pop("model", MODEL)
    settings |= {"probed": probed(()), "plan": plan(tune.epochs if tune else 1)}
    train_head(splits, model, train, **settings)
    if tune:
        WINNER.parent.mkdir(parents=True, exist_ok=True)
        save_file({}, WINNER)
        finetune(splits, tune, **settings)


def plan(epochs: Any) -> Plan:
    return Plan("multiply-adds", 48, 1 if epochs == "auto" else epochs, [1.0] * 14, 0.0, 0, 1.0, [], 1.0)


@pytest.fixture(autouse=True)
def always_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = Candidate(FINE_TUNED, 0.1, 1.0, 1.0, 0.0, 0.0)

    def choose(_: Tried, end: Tried, __: Any, *, refit: bool) -> tuple[Tried, Choice]:
        return end, Choice([candidate], FINE_TUNED, "It is.", refit)

    monkeypatch.setattr(stages.choice, "choose", choose)


def moved() -> set[str]:
    """Parts that finetune changed, as `blocks.6` or `head`."""
    before, after = (classifier.load(folder)[0].state_dict() for folder in (HEAD, FINETUNED))
    changed = [key for key, value in after.items() if not torch.equal(before[key], value)]
    return {".".join(key.split(".")[: 2 if key.startswith("blocks") else 1]) for key in changed}


def test_a_linear_head_is_the_probe_and_needs_no_epochs(splits: Splits) -> None:
    recorder = ListRecorder()
    run(splits, Train(epochs=3), recorder=recorder)
    assert recorder.metrics == []
    head = classifier.load(HEAD)[0].head
    assert not torch.equal(head.mean, torch.zeros_like(head.mean))


def test_without_epochs_another_head_stays_as_it_was_made_and_finetune_trains_it(splits: Splits) -> None:
    recorder = ListRecorder()
    hidden = MODEL.model_copy(update={"head": Head(hidden=(8,))})
    run(splits, Train(epochs=0), recorder=recorder, model=hidden)
    assert recorder.metrics == []
    text = (HEAD / "history.csv").read_text()
    assert text.splitlines() == [",".join(["epoch", *LOGGED, "lr"])]
    head, card = classifier.load(HEAD)
    fresh = classifier.build(card, "none", seed=1)
    given = ("head.mean", "head.scale")  # of the features of the training images
    assert all(
        torch.equal(value, fresh.state_dict()[key]) for key, value in head.state_dict().items() if key not in given
    )
    run(splits, Train(epochs=0), Finetune(epochs=1), model=hidden)
    assert moved() == {"head", *(f"blocks.{index}" for index in range(6, 13))}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Finetune(epochs=1, freezing="full"), range(13)),
        (Finetune(epochs=1, freezing="gradual"), range(6, 13)),
        (Finetune(epochs=2, freezing="gradual", monitor="train_loss", unfreeze_epochs=2), range(6, 13)),
    ],
)
def test_freezing_decides_what_moves(splits: Splits, config: Finetune, expected: range) -> None:
    run(splits, Train(), config)
    assert {name for name in moved() if name != "head"} <= {f"blocks.{index}" for index in expected}
    if config.epochs == 1:
        assert moved() == {"head", *(f"blocks.{index}" for index in expected)}


def test_gradually_the_top_half_goes_first(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    depths = []
    freeze = classifier.Classifier.freeze
    monkeypatch.setattr(
        classifier.Classifier, "freeze", lambda net, depth: (depths.append(depth), freeze(net, depth))[1]
    )
    run(splits, Train(), Finetune(epochs=3, freezing="gradual", unfreeze_epochs=2, early_stopping=None))
    assert depths[-5:] == [6, 9, 6, 6, 6]  # before, three epochs, after


def test_mixing_needs_images_so_what_is_kept_is_of_no_use(
    splits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(Activations(engine="torch"), tmp_path / "cache")
    hidden = MODEL.model_copy(update={"head": Head(hidden=(8,))})
    run(splits, Train(epochs=1, mixup=0.2), Finetune(epochs=1, cutmix=1.0), cache=cache, model=hidden)
    said = "mixup, cutmix: images are mixed anew, so every epoch runs the frozen blocks"
    assert capsys.readouterr().out.count(said) == 2


def test_what_was_tuned_reaches_the_head_and_both_trainings(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"optimizer": "sgd", "accumulate": 2, "hidden": [16], "activation": "gelu", "dropout": 0.25}
    seen = []

    def pretend(net: classifier.Classifier, splits: Splits, config: Any, **options: Any) -> History:
        seen.append((config.optimizer, config.accumulate, net.head.linear.in_features, net.head.dropout.p))
        return History([dict.fromkeys([*LOGGED, "lr"], 0.0)])

    monkeypatch.setattr(stages, "fit", pretend)
    run(splits, Train(), Finetune(), replace(BEST, choices=choices))
    assert seen == [("sgd", 2, 16, 0.25)] * 2
    _, card = classifier.load(FINETUNED)
    assert (card.head, card.dropout) == (Head(hidden=(16,), activation="gelu"), 0.25)


def test_what_was_tuned_and_contradicts_the_section_is_refused_before_training(splits: Splits) -> None:
    best = replace(BEST, choices={"sampling": "balanced"})
    with pytest.raises(UserError, match=r"train: sampling and class_weights .*best\.json\)\n  set sampling: shuffled"):
        run(splits, Train(class_weights="balanced"), best=best)
    with pytest.raises(UserError, match="'timm/lionn' is not an optimizer"):
        run(splits, Train(optimizer="timm/lionn"))
