"""The augmentation policy: each transform by its name, ranges the right way up and within bounds."""

from pathlib import Path
from typing import Any, get_args

import pytest

from transferline import config, policy
from transferline.errors import UserError

TRANSFORMS = get_args(get_args(policy.Transform)[0])


def _load(tmp_path: Path, entry: str) -> tuple[Any, ...]:
    path = tmp_path / "params.yaml"
    path.write_text(f"augment:\n  policy:\n    - {{name: horizontal_flip}}\n    - {entry}\n", encoding="utf-8")
    return config.load("augment", path=path).augment.policy


def _name(model: Any) -> str:
    (name,) = get_args(model.model_fields["name"].annotation)
    return str(name)


@pytest.mark.parametrize("model", TRANSFORMS, ids=_name)
def test_every_transform_is_picked_by_its_name_and_valid_by_default(tmp_path: Path, model: Any) -> None:
    policy_read = _load(tmp_path, f"{{name: {_name(model)}}}")
    assert policy_read[1] == model(name=_name(model))
    model.model_validate(policy_read[1].model_dump())


def test_names_are_distinct() -> None:
    names = [_name(model) for model in TRANSFORMS]
    assert len(set(names)) == len(names) == 16


def test_order_and_values_are_kept(tmp_path: Path) -> None:
    flip, rotation = _load(tmp_path, "{name: rotation, degrees: [-5, 2.5], p: 0.25, enabled: false}")
    assert flip.name == "horizontal_flip"
    assert (rotation.degrees, rotation.p, rotation.enabled) == ((-5.0, 2.5), 0.25, False)


def test_a_range_of_one_value_is_allowed(tmp_path: Path) -> None:
    assert _load(tmp_path, "{name: blur, sigma: [1, 1]}")[1].sigma == (1.0, 1.0)


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ("{name: rotatoin}", ": 'rotatoin' is not known", "did you mean 'rotation'?"),
        ("{p: 1}", ': expected a name, as in {name: horizontal_flip}, got {"p": 1}', "see the README"),
        ("blur", ": expected keys and values, as {name: horizontal_flip}, got 'blur'", "see the README"),
        ("{name: rotation, degres: [1, 2]}", " (rotation): unknown key 'degres'", "did you mean 'degrees'?"),
        ("{name: rotation, degrees: 5}", " (rotation): degrees: expected a list, got 5", "see the README"),
        ("{name: rotation, degrees: [5]}", " (rotation): degrees: [5] is too short", "give it as [low, high]"),
        (
            "{name: rotation, degrees: [1, 2, 3]}",
            " (rotation): degrees: expected at most 2 values, got [1, 2, 3]",
            "see the README",
        ),
        (
            "{name: rotation, degrees: [1, x]}",
            " (rotation): degrees[1]: expected a number, got 'x'",
            "see the README",
        ),
        (
            "{name: rotation, degrees: [.nan, 1]}",
            " (rotation): degrees[0]: expected a finite number, got NaN",
            "see the README",
        ),
        (
            "{name: rotation, degrees: [5, -5]}",
            " (rotation): degrees: [5, -5] is upside down",
            "[-5, 5] would do",
        ),
        ("{name: blur, p: 2}", " (blur): p: 2 is out of range", "the nearest right value is 1"),
        ("{name: blur, enabled: 1}", " (blur): enabled: expected true or false, got 1", "see the README"),
    ],
)
def test_a_mistake_names_the_entry_and_the_key(tmp_path: Path, entry: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, entry)
    assert caught.value.what == f"{tmp_path / 'params.yaml'}: augment.policy[1]{what}"
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: rotation, degrees: [-200, 0]}", "degrees: -200 is outside -180..180"),
        ("{name: scale, factor: [0, 1]}", "factor: 0 is outside 0.1..10"),
        ("{name: random_resized_crop, area: [0.5, 2]}", "area: 2 is outside 0.01..1"),
        ("{name: random_resized_crop, ratio: [0, 1]}", "ratio: 0 is outside 0.1..10"),
        ("{name: brightness, factor: [-1, 1]}", "factor: -1 is outside 0..10"),
        ("{name: contrast, factor: [1, 11]}", "factor: 11 is outside 0..10"),
        ("{name: saturation, factor: [1, 11]}", "factor: 11 is outside 0..10"),
        ("{name: hue, turn: [0, 1]}", "turn: 1 is outside -0.5..0.5"),
        ("{name: gaussian_noise, sigma: [0, 300]}", "sigma: 300 is outside 0..255"),
        ("{name: blur, sigma: [0, 1]}", "sigma: 0 is outside 0.01..20"),
        ("{name: random_erasing, area: [0, 0.1]}", "area: 0 is outside 0.001..0.9"),
        ("{name: random_erasing, ratio: [0.3, 20]}", "ratio: 20 is outside 0.1..10"),
        ("{name: rand_augment, magnitude: 31}", "magnitude: 31 is out of range"),
        ("{name: rand_augment, n: 0}", "n: 0 is out of range"),
    ],
)
def test_a_range_outside_its_bounds_is_refused(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, entry)
    assert message in caught.value.what
    assert caught.value.fix.startswith("the nearest right value is ")


def test_operations_of_an_automatic_policy_are_excluded_by_name(tmp_path: Path) -> None:
    _, trivial = _load(tmp_path, "{name: trivial_augment, exclude: [rotate, shear_x]}")
    assert len(trivial.operations) == 12
    assert not {"rotate", "shear_x"} & set(trivial.operations)
    with pytest.raises(UserError) as caught:
        _load(tmp_path, "{name: trivial_augment, exclude: [rotation]}")
    assert caught.value.what.endswith("augment.policy[1] (trivial_augment): exclude[0]: 'rotation' is not known")
    assert caught.value.fix == "did you mean 'rotate'?"


def test_an_automatic_policy_must_have_something_to_draw(tmp_path: Path) -> None:
    left_out = ", ".join(sorted(set(policy.OPERATIONS) - {"identity"}))
    with pytest.raises(UserError) as caught:
        _load(tmp_path, f"{{name: rand_augment, exclude: [{left_out}]}}")
    assert caught.value.what.endswith("(rand_augment): exclude: no operation is left to draw")
    assert "enabled: false" in caught.value.fix


def test_two_automatic_policies_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, "{name: trivial_augment}\n    - {name: rand_augment}")
    assert caught.value.what.endswith("augment.policy: trivial_augment and rand_augment are each a whole policy")
    assert caught.value.fix == "keep one of them, beside any other transforms"
    kept = _load(tmp_path, "{name: trivial_augment}\n    - {name: rand_augment, enabled: false}")
    assert [transform.enabled for transform in kept] == [True, True, False]
