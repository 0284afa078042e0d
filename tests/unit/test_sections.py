"""What the sections refuse beyond a single value's type and range."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from transferline import config, sections


def _refusal(model: type[BaseModel], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("name", [name for name in config.SECTIONS if name != "seed"])
def test_every_section_is_valid_by_default_and_forbids_unknown_keys(name: str) -> None:
    model = config.SECTIONS[name]
    model()
    assert "not permitted" in _refusal(model, nonsense=1)


def test_defaults_are_checked_like_given_values() -> None:
    for name, model in config.SECTIONS.items():
        if name != "seed":
            model.model_validate(model().model_dump())


def test_shares_that_do_not_add_up_name_the_one_that_would_do() -> None:
    assert "add up to 1.2, not 1; train: 0.7 would do" in _refusal(sections.Split, train=0.9)


def test_shares_that_no_train_mends_get_all_three() -> None:
    text = _refusal(sections.Split, train=0.9, val=0.9, test=0.9)
    assert "add up to 2.7, not 1; train: 0.7, val: 0.15, test: 0.15 would do" in text


def test_shares_with_rounding_errors_add_up() -> None:
    sections.Split(train=0.7, val=0.1, test=0.2)


@pytest.mark.parametrize("model", [sections.FloatRange, sections.IntRange])
def test_an_upside_down_range_is_refused(model: type[BaseModel]) -> None:
    low = 5 if model is sections.IntRange else 5.0
    assert "low (5) is above high (1); swap them" in _refusal(model, low=low, high=1)


def test_a_range_of_one_value_is_allowed() -> None:
    assert sections.IntRange(low=3, high=3).high == 3


def test_a_logarithmic_range_starts_above_zero() -> None:
    assert "must start above 0" in _refusal(sections.FloatRange, low=0, high=1, log=True)


def test_a_learning_rate_of_zero_is_refused() -> None:
    assert "low: 0 is no learning rate" in _refusal(sections.Search, lr={"low": 0, "high": 1})


def test_a_learning_rate_that_start_could_not_have_is_refused() -> None:
    assert "the nearest right value is 10" in _refusal(sections.Search, lr={"low": 1, "high": 11})


@pytest.mark.parametrize("key", ["weight_decay", "dropout", "label_smoothing"])
def test_a_searched_share_stays_within_0_and_1(key: str) -> None:
    assert "low: -1 is out of range; the nearest right value is 0" in _refusal(
        sections.Search, **{key: {"low": -1, "high": 0.5}}
    )
    assert "high: 1 is out of range; it must be below 1" in _refusal(sections.Search, **{key: {"low": 0, "high": 1}})


def test_a_batch_of_nothing_is_refused() -> None:
    assert "0 is no batch size; the smallest is 1" in _refusal(sections.Search, batch_size=[16, 0])


def test_batch_sizes_may_be_given_as_a_list() -> None:
    assert sections.Search.model_validate({"batch_size": [8, 16]}).batch_size == (8, 16)


@pytest.mark.parametrize(
    ("start", "search", "message"),
    [
        ({"lr": 1.0}, {}, "start.lr: 1 is outside search.lr; the nearest right value is 0.005"),
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
    assert message in _refusal(sections.Tune, start=start, search=search)


def test_start_is_free_where_nothing_is_searched() -> None:
    assert sections.Tune(trials=0, start=sections.Start(lr=1.0)).start.lr == 1.0


def test_an_open_range_of_depths_takes_any_deeper_start() -> None:
    open_range = sections.Search(freeze_depth=sections.IntRange(low=1))
    assert sections.Tune(start=sections.Start(freeze_depth=40), search=open_range).start.freeze_depth == 40


@pytest.mark.parametrize("devices", [0, 2])
def test_any_number_of_devices_but_one_is_refused(devices: int) -> None:
    assert f"{devices} devices are not supported" in _refusal(sections.Finetune, devices=devices)


@pytest.mark.parametrize("devices", [1, "auto"])
def test_one_or_automatic_devices_are_taken(devices: Any) -> None:
    assert sections.Finetune(devices=devices).devices == devices


def test_each_loop_has_epochs_of_its_own() -> None:
    assert [model().epochs for model in (sections.Tune, sections.Train, sections.Finetune)] == [1, 1, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": [256, 0]}, "0 is no width of a layer; the smallest is 1"),
        ({"norm": "batch"}, r"norm: batch is of hidden layers, and hidden is \[\]; name widths, as \[256\]"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sections.Head.model_validate(given)
