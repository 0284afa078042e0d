"""What auto stands for in `augment.policy` and `augment.views`."""

from pathlib import Path

import pytest

from transferline import augmentation, config
from transferline.errors import UserError


@pytest.mark.parametrize(
    ("images", "views"), [(1, 4), (700, 4), (701, 3), (1_000, 3), (1_001, 2), (10_000, 2), (10_001, 1)]
)
def test_the_more_images_the_fewer_views(images: int, views: int) -> None:
    assert augmentation.views("auto", images) == views
    assert augmentation.views(0, images) == 0
    assert augmentation.views(7, images) == 7


def test_auto_starts_from_a_broad_list_and_a_list_from_itself() -> None:
    assert augmentation.starting_policy("auto") == augmentation.BROAD
    assert augmentation.starting_policy(()) == ()
    assert {"horizontal_flip", "vertical_flip", "quarter_turns"} <= {one.name for one in augmentation.BROAD}


def test_the_safe_list_holds_nothing_that_a_label_may_depend_on() -> None:
    assert [one.name for one in augmentation.SAFE] == ["random_resized_crop", "shift", "brightness", "contrast"]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("policy: automatic", "augment.policy: expected a list or 'auto', got 'automatic'"),
        ("policy: 3", "augment.policy: expected a list or 'auto', got 3"),
        ("policy: [{name: blr}]", "augment.policy[0]: 'blr' is not known"),
        ("views: many", "augment.views: expected a whole number or 'auto', got 'many'"),
        ("views: 99", "augment.views: 99 is out of range"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, entry: str, what: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"augment: {{{entry}}}", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        config.load("augment", path=path)
    assert caught.value.what == f"{path}: {what}"


@pytest.mark.parametrize("entry", ["", "augment: {policy: auto, views: auto}"])
def test_auto_is_the_default(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(entry, encoding="utf-8")
    augment = config.load("augment", path=path).augment
    assert (augment.policy, augment.views) == ("auto", "auto")


@pytest.mark.parametrize(("images", "share"), [(1, 1.0), (700, 1.0), (1_000, 0.75), (10_000, 0.5), (10_001, 0.25)])
def test_the_more_images_the_rarer_a_transform(images: int, share: float) -> None:
    made = augmentation.rarer(augmentation.BROAD, images)
    assert [one.p for one in made] == [share * one.p for one in augmentation.BROAD]
    assert [one.name for one in made] == [one.name for one in augmentation.BROAD]
