"""The space of the tune section: any choice by its name, within what its key may be."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from transferline import tuning
from transferline.errors import UserError
from transferline.fitting import Finetune, Fit, Train
from transferline.mistakes import explain
from transferline.sections import Head, Model


def _refusal(model: type[BaseModel], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("model", [tuning.FloatRange, tuning.IntRange])
def test_an_upside_down_range_is_refused(model: type[BaseModel]) -> None:
    low = 5 if model is tuning.IntRange else 5.0
    assert "low (5) is above high (1); swap them" in _refusal(model, low=low, high=1)


def test_a_range_of_one_value_is_allowed() -> None:
    assert tuning.IntRange(low=3, high=3).high == 3


def test_a_logarithmic_range_starts_above_zero() -> None:
    assert "must start above 0" in _refusal(tuning.FloatRange, low=0, high=1, log=True)


def test_a_learning_rate_of_zero_is_refused() -> None:
    assert "low: 0 is no learning rate" in _refusal(tuning.Search, lr={"low": 0, "high": 1})


def test_a_learning_rate_that_start_could_not_have_is_refused() -> None:
    assert "the nearest right value is 10" in _refusal(tuning.Search, lr={"low": 1, "high": 11})


@pytest.mark.parametrize("key", ["momentum", "dropout", "label_smoothing"])
def test_a_searched_share_stays_within_0_and_1(key: str) -> None:
    assert "low: -1 is out of range; the nearest right value is 0" in _refusal(
        tuning.Search, **{key: {"low": -1, "high": 0.5}}
    )
    assert "high: 1 is out of range; it must be below 1" in _refusal(tuning.Search, **{key: {"low": 0, "high": 1}})


def test_a_batch_of_nothing_is_refused() -> None:
    assert "0 is no batch size; the smallest is 1" in _refusal(tuning.Search, batch_size=[16, 0])


def test_batch_sizes_may_be_given_as_a_list() -> None:
    assert tuning.Search.model_validate({"batch_size": [8, 16]}).batch_size == (8, 16)


@pytest.mark.parametrize(
    ("start", "search", "message"),
    [
        ({"lr": 1.0}, {}, "start.lr: 1 is outside search.lr; the nearest right value is 0.01"),
        ({"batch_size": 30}, {}, "start.batch_size: 30 is not in search.batch_size; 32 is nearest"),
        (
            {"freeze_depth": 9},
            {"freeze_depth": {"low": 2, "high": 5}},
            "start.freeze_depth: 9 is outside search.freeze_depth; the nearest right value is 5",
        ),
        (
            {"freeze_depth": 0},
            {"freeze_depth": {"low": 2}},
            "start.freeze_depth: 0 is outside search.freeze_depth; the nearest right value is 2",
        ),
    ],
)
def test_start_must_lie_inside_search(start: dict[str, Any], search: dict[str, Any], message: str) -> None:
    assert message in _refusal(tuning.Tune, start=start, search=search)


def test_start_is_free_where_nothing_is_searched() -> None:
    assert tuning.Tune(trials=0, start=tuning.Start(lr=1.0)).start.lr == 1.0


def test_an_open_range_of_depths_takes_any_deeper_start() -> None:
    open_range = tuning.Search(freeze_depth=tuning.IntRange(low=1))
    assert tuning.Tune(start=tuning.Start(freeze_depth=40), search=open_range).start.freeze_depth == 40


NOT_SEARCHED = {
    *("epochs", "early_stopping", "early_stopping_monitor", "monitor"),
    *("precision", "accelerator", "devices", "channels_last", "checkpoint_share"),
    "features",  # the probe chooses
}


def _search(**space: Any) -> dict[str, Any]:
    return tuning.Tune.model_validate({"search": space}).search.further


def _said(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        tuning.Tune.model_validate(values)
    return str(explain("tune", tuning.Tune, caught.value))


def test_every_choice_of_training_and_of_the_head_can_be_searched_by_its_name() -> None:
    assert set(tuning.SEARCHED) == {*Fit.model_fields, "dropout", "stochastic_depth", *Head.model_fields} - NOT_SEARCHED
    assert set(tuning.Search.model_fields) == {"lr", "batch_size", "freeze_depth", *tuning.SEARCHED}
    assert tuning.Search().further == {}


def test_numbers_are_ranges_and_other_choices_lists() -> None:
    found = _search(
        ema={"low": 0.9, "high": 0.99},
        accumulate={"low": 1, "high": 4},
        nesterov=[True, False],
        optimizer=["adamw", "timm/lion"],
        hidden=[[], [256, 64]],
    )
    assert found == {
        "ema": tuning.FloatRange(low=0.9, high=0.99),
        "accumulate": tuning.WholeRange(low=1, high=4),
        "nesterov": (True, False),
        "optimizer": ("adamw", "timm/lion"),
        "hidden": ((), (256, 64)),
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"layer_decay": {"low": 0.5, "high": 1.5}},
            "search.layer_decay: high: 1.5 is out of range\n  the nearest right value is 1",
        ),
        ({"layer_decay": {"low": 0, "high": 1}}, "search.layer_decay: low: 0 is out of range\n  it must be above 0"),
        ({"accumulate": {"low": 0, "high": 2}}, "search.accumulate: low: 0 is out of range\n  the nearest right value"),
        ({"accumulate": {"low": 1, "high": 2.5}}, "search.accumulate.high: expected a whole number, got 2.5"),
        ({"optimizer": ["adamw", "sdg"]}, "search.optimizer[1]: 'sdg' is not known\n  did you mean 'sgd'?"),
        ({"schedule": ["cosin"]}, "search.schedule[0]: 'cosin' is not known\n  did you mean 'cosine'?"),
        ({"nesterov": ["yes"]}, "search.nesterov[0]: expected true or false, got 'yes'"),
        ({"hidden": [[0]]}, "search.hidden[0][0]: 0 is out of range\n  the nearest right value is 1"),
        ({"loss": []}, "search.loss: expected at least 1 value, got []"),
        ({"loss": "focal"}, "search.loss: expected a list, got 'focal'"),
        ({"monitor": ["loss"]}, "search: unknown key 'monitor'"),
        ({"weight_decai": {"low": 0, "high": 1}}, "unknown key 'weight_decai'\n  did you mean 'weight_decay'?"),
    ],
)
def test_what_the_key_itself_could_not_be_is_refused(space: dict[str, Any], message: str) -> None:
    assert f"tune.{message}" in _said(search=space) or message in _said(search=space)


@pytest.mark.parametrize("key", ["epochs", "train_fraction", "budget", "seconds", "weight_decay", "mixup"])
def test_how_a_trial_is_trained_is_said_in_finetune_alone(key: str) -> None:
    assert f"tune: unknown key '{key}'" in _said(**{key: 1})


def test_trials_are_a_number_or_automatic() -> None:
    assert tuning.Tune().trials == "auto"
    assert "trials: -1 is out of range\n  the nearest right value is 0" in _said(trials=-1)


def test_how_long_to_search_is_said_once() -> None:
    assert "trials: 3 and minutes both say how long to search\n  set trials: auto" in _said(trials=3, minutes=20.0)
    assert tuning.Tune(minutes=20.0).minutes == 20
    assert "greater than 0" in _refusal(tuning.Tune, minutes=0.0)


@pytest.mark.parametrize(
    "space", [{"loss": ["focal"]}, {"focal_gamma": {"low": 1, "high": 2}}, {"class_weights": ["none", "balanced"]}]
)
def test_losses_of_several_kinds_are_not_compared(space: dict[str, Any]) -> None:
    (name,) = space
    text = _said(objective="loss", search=space)
    assert f"not the same loss for trials that differ in {name}\n  take objective: macro_f1, or leave" in text
    tuning.Tune.model_validate({"objective": "macro_f1", "search": space})


def test_the_first_trial_takes_the_sections_own_values_or_the_nearest() -> None:
    config = tuning.Tune.model_validate(
        {
            "objective": "macro_f1",
            "search": {
                "weight_decay": {"low": 0.001, "high": 0.1},
                "ema": {"low": 0.9, "high": 0.99},
                "accumulate": {"low": 1, "high": 4},
                "schedule": ["cosine", "onecycle"],
                "loss": ["focal"],
                "dropout": {"low": 0, "high": 0.5},
                "activation": ["gelu", "relu"],
            },
        }
    )
    assert tuning.first(config, Finetune(weight_decay=0.5), Model(dropout=0.3)) == {
        "lr": config.start.lr,
        "batch_size": config.start.batch_size,
        "weight_decay": 0.1,
        "ema": 0.9,
        "accumulate": 1,
        "schedule": "onecycle",
        "loss": "focal",
        "dropout": 0.3,
        "activation": "relu",
    }


def test_choices_go_before_the_section_and_are_checked_again() -> None:
    choices = {"weight_decay": 0.2, "optimizer": "sgd", "dropout": 0.4, "hidden": [64], "norm": "layer"}
    config = tuning.with_choices(Finetune(epochs=7, freezing="full"), choices, 16)
    assert config == Finetune(epochs=7, freezing="full", weight_decay=0.2, optimizer="sgd")
    model = tuning.model_with(Model(dropout=0.1), choices)
    assert model == Model(dropout=0.4, head=Head(hidden=(64,), norm="layer"))


@pytest.mark.parametrize(
    ("config", "choices", "message"),
    [
        (Finetune(class_weights="balanced"), {"sampling": "balanced"}, "finetune: sampling and class_weights"),
        (Train(), {"mixup": 0.5}, "train: mixup and cutmix mix the images of a batch, and batch_size is 1\n  take 2"),
        (Finetune(), {"layer_decay": 3}, "finetune.layer_decay: 3 is out of range\n  the nearest right value is 1"),
    ],
)
def test_choices_that_contradict_the_section_are_refused(config: Fit, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        tuning.with_choices(config, choices, 1)
    assert message in str(caught.value)


def test_a_head_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.head: norm: batch is of hidden layers"):
        tuning.model_with(Model(), {"norm": "batch"})


def test_a_freeze_depth_is_given_once() -> None:
    assert "both say how deep to freeze; give one of them" in _refusal(tuning.Start, freeze_depth=3, freeze_to="layer2")
    assert tuning.Tune.model_validate({"start": {"freeze_to": "layer2"}}).start.freeze_to == "layer2"
