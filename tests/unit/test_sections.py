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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": [256, 0]}, "greater than or equal to 1"),
        ({"norm": "batch"}, r"norm: batch is of hidden layers, and hidden is \[\]; name widths, as \[256\]"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sections.Head.model_validate(given)


def test_a_csv_of_labels_does_not_go_with_a_torchvision_set() -> None:
    text = _refusal(sections.Data, labels="labels.csv", torchvision="CIFAR10")
    assert "labels: labels.csv goes with images of your own, not with torchvision: CIFAR10; set one of them" in text


def test_the_audit_is_switched_off_by_the_word_and_by_what_yaml_makes_of_it() -> None:
    assert sections.Augment.model_validate({"audit": "off"}).audit == "off"
    assert sections.Augment.model_validate({"audit": False}).audit == "off"
    assert "'warn', 'refuse' or 'off'" in _refusal(sections.Augment, audit=True)


def test_variants_are_held_against_fp32_and_are_each_made_once() -> None:
    assert sections.Export(variants=["int8", "fp32"]).variants == ("int8", "fp32")
    for given in ([], ["int8"]):
        told = "; [fp32, int8] would do" if given else "; [fp32] would do"
        assert told in _refusal(sections.Export, variants=given)
    assert "named twice; [fp32, fp16] would do" in _refusal(sections.Export, variants=["fp32", "fp16", "fp32"])
