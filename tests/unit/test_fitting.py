"""What training refuses beyond a single value's type and range."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from transferline import fitting


def _refusal(model: type[BaseModel], **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize("devices", [0, 2])
def test_any_number_of_devices_but_one_is_refused(devices: int) -> None:
    assert f"{devices} devices are not supported" in _refusal(fitting.Finetune, devices=devices)


@pytest.mark.parametrize("devices", [1, "auto"])
def test_one_or_automatic_devices_are_taken(devices: Any) -> None:
    assert fitting.Finetune(devices=devices).devices == devices


@pytest.mark.parametrize(("images", "epochs"), [(50, 10), (500, 5), (1000, 3), (100_000, 3)])
def test_automatic_epochs_are_fewer_for_more_images(images: int, epochs: int) -> None:
    for section in (fitting.Train(), fitting.Finetune()):
        assert section.epochs == "auto"
        assert section.lasting(images).epochs == epochs


def test_epochs_that_are_given_last_whatever_the_images() -> None:
    assert fitting.Finetune(epochs=2).lasting(50).epochs == 2


def test_gradual_unfreezing_goes_with_automatic_epochs() -> None:
    assert fitting.Finetune(freezing="gradual", unfreeze_epochs=40).epochs == "auto"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("adamx", "did you mean 'adam'?"),
        ("tim/lion", "did you mean 'timm/<name>'?"),
        ("zzz", "choose one of: adagrad, adam, adamw, lamb, rmsprop, sgd, timm/<name>"),
    ],
)
def test_an_unknown_optimiser_is_refused_with_the_nearest(name: str, fix: str) -> None:
    refusal = _refusal(fitting.Fit, optimizer=name)
    assert f"'{name}' is not known; " in refusal
    assert fix in refusal


@pytest.mark.parametrize("name", [*fitting.OPTIMIZERS, "timm/lion"])
def test_known_optimisers_are_taken(name: str) -> None:
    assert fitting.Fit(optimizer=name).optimizer == name


def test_classes_are_balanced_once() -> None:
    text = _refusal(fitting.Train, sampling="balanced", class_weights="balanced")
    assert "evens out the classes twice; set sampling: shuffled or class_weights: none" in text
    fitting.Fit(sampling="balanced")
    fitting.Fit(class_weights="balanced")


def test_unfreezing_ends_before_training_does() -> None:
    text = _refusal(fitting.Finetune, freezing="gradual", epochs=3, unfreeze_epochs=4)
    assert "unfreeze_epochs: 4 is more than there are epochs; the nearest right value is 3" in text
    fitting.Finetune(freezing="gradual", epochs=3, unfreeze_epochs=3)
    fitting.Finetune(epochs=3, unfreeze_epochs=4)  # merely unused


def test_what_mixes_needs_pairs() -> None:
    for mixing in ({"mixup": 0.2}, {"cutmix": 1.0}):
        config = fitting.Fit.model_validate(mixing)
        fitting.needs_pairs(config, 2)
        with pytest.raises(ValueError, match="batch_size is 1; take 2 or more, or set mixup: 0 and cutmix: 0"):
            fitting.needs_pairs(config, 1)
    fitting.needs_pairs(fitting.Fit(), 1)


def test_only_train_may_do_nothing() -> None:
    assert fitting.Train(epochs=0).epochs == 0
    assert "greater than or equal to 1" in _refusal(fitting.Finetune, epochs=0)
