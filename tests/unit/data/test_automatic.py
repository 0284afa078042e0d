"""TrivialAugment and RandAugment: which operations are drawn, how strong they are, and what each does."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torchvision.transforms import v2

from transferline import policy
from transferline.data import automatic, transforms
from transferline.data.automatic import operate

SIDE = 48
PICTURE = torch.from_numpy(np.random.default_rng(0).random((3, SIDE, SIDE), dtype=np.float32))
STRONG = automatic._Strongest(shear=0.5, pixels=6, degrees=90, change=0.9, bits=4)
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness")


def a(name: str, **options: object) -> policy.Transform:
    made: policy.Transform = TypeAdapter(policy.Transform).validate_python({"name": name, **options})
    return made


def drawn(transform: policy.Transform, count: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Operation, strength and sign of what `count` images would undergo."""
    seen: list[tuple[str, float, float]] = []
    monkeypatch.setattr(
        automatic,
        "operate",
        lambda operation, image, strength, sign, strongest: seen.append((operation, strength, sign)) or image,
    )
    rng = np.random.default_rng(0)
    for _ in range(count):
        transforms.apply(transform, PICTURE, rng)
    return seen


def test_trivial_augment_draws_one_operation_of_all_at_any_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(a("trivial_augment"), 2000, monkeypatch)
    assert len(seen) == 2000
    counts = np.unique([operation for operation, _, _ in seen], return_counts=True)[1]
    assert len(counts) == 14
    assert counts.min() > 100
    assert {round(30 * strength) for _, strength, _ in seen} == set(range(31))
    assert {sign for _, _, sign in seen} == {-1.0, 1.0}


def test_rand_augment_draws_n_operations_of_one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(a("rand_augment", n=3, magnitude=12), 400, monkeypatch)
    assert len(seen) == 1200
    assert {operation for operation, _, _ in seen} == set(policy.OPERATIONS)
    assert {strength for _, strength, _ in seen} == {0.4}


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_excluded_operations_are_never_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(a(name, exclude=["rotate", "shear_x", "shear_y"]), 500, monkeypatch)
    assert {operation for operation, _, _ in seen} == set(policy.OPERATIONS) - {"rotate", "shear_x", "shear_y"}


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_torchs_global_generator_is_left_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    transforms.apply(a(name), PICTURE, np.random.default_rng(0))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("operation", sorted(set(policy.OPERATIONS) - {"identity", "auto_contrast", "equalize"}))
def test_without_strength_an_operation_changes_next_to_nothing(operation: policy.Operation) -> None:
    torch.testing.assert_close(operate(operation, PICTURE, 0.0, 1.0, STRONG), PICTURE, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("operation", policy.OPERATIONS)
def test_at_full_strength_the_image_is_another_one_of_the_same_kind(operation: policy.Operation) -> None:
    made = operate(operation, PICTURE * 0.8, 1.0, 1.0, STRONG)
    assert made.dtype == torch.float32
    assert made.shape == PICTURE.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(made, PICTURE * 0.8) == (operation == "identity")
    other = operate(operation, PICTURE * 0.8, 1.0, -1.0, STRONG)
    assert torch.equal(made, other) != (operation in SIGNED)


def test_what_is_moved_goes_where_it_should() -> None:
    ramp = torch.arange(float(SIDE)).expand(3, SIDE, SIDE) / SIDE  # brighter to the right
    inner = slice(16, 32)
    shifted = operate("translate_x", ramp, 1.0, 1.0, STRONG)
    torch.testing.assert_close(shifted[:, inner, inner], ramp[:, inner, inner] - 6 / SIDE)
    torch.testing.assert_close(operate("translate_y", ramp, 1.0, 1.0, STRONG), ramp)
    turned = operate("rotate", ramp, 1.0, 1.0, STRONG)
    torch.testing.assert_close(turned, torch.rot90(ramp, -1, (1, 2)), atol=1e-4, rtol=0)
    leaning = operate("shear_x", ramp, 1.0, 1.0, STRONG)
    rows = torch.arange(float(SIDE)) - (SIDE - 1) / 2
    slope = (leaning[0, 30, 24] - leaning[0, 20, 24]) * SIDE / 10
    assert abs(float(slope)) == pytest.approx(0.5, abs=0.01)
    assert float(leaning[0, 24, 24] - ramp[0, 24, 24]) * SIDE == pytest.approx(float(slope * rows[24]), abs=0.01)


@pytest.mark.parametrize("operation", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_borders_are_mirrored_and_never_black(operation: policy.Operation) -> None:
    white = torch.ones(3, SIDE, SIDE)
    for sign in (-1.0, 1.0):
        assert operate(operation, white, 1.0, sign, automatic._WIDE).min() > 0.999


def test_posterizing_leaves_as_many_levels_as_bits() -> None:
    ramp = (torch.arange(256.0) / 255).repeat(3, 256, 1)
    assert len(operate("posterize", ramp, 1.0, 1.0, STRONG).unique()) == 16
    torch.testing.assert_close(operate("posterize", ramp, 0.0, 1.0, STRONG), ramp)


def test_solarizing_inverts_what_is_brighter_than_the_threshold() -> None:
    ramp = (torch.arange(256.0) / 255).repeat(3, 4, 1)
    made = operate("solarize", ramp, 0.25, 1.0, STRONG)
    torch.testing.assert_close(made, torch.where(ramp >= 0.75, 1 - ramp, ramp))


@pytest.mark.parametrize("operation", ["auto_contrast", "equalize"])
def test_a_faint_image_gets_the_whole_range(operation: policy.Operation) -> None:
    made = operate(operation, 0.4 + 0.2 * PICTURE, 0.0, 1.0, STRONG)
    assert (made.min(), made.max()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


@pytest.mark.parametrize("name", ["trivial_augment", "rand_augment"])
def test_the_strongest_forms_are_those_that_torchvision_carries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[automatic._Strongest] = []
    monkeypatch.setattr(automatic, "operate", lambda *given: seen.append(given[-1]) or given[1])
    transforms.apply(a(name), torch.zeros(3, 331, 331), np.random.default_rng(0))
    ours, theirs = seen[0], {"trivial_augment": v2.TrivialAugmentWide, "rand_augment": v2.RandAugment}[name]
    space = {operation: strengths(31, 331, 331) for operation, (strengths, _) in theirs._AUGMENTATION_SPACE.items()}
    assert {operation: float(strengths[-1]) for operation, strengths in space.items() if strengths is not None} == (
        pytest.approx(
            {
                **dict.fromkeys(("ShearX", "ShearY"), ours.shear),
                **dict.fromkeys(("TranslateX", "TranslateY"), ours.pixels),
                "Rotate": ours.degrees,
                **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), ours.change),
                "Posterize": 8 - ours.bits,
                "Solarize": 0.0,
            }
        )
    )
    assert len(space) == len(policy.OPERATIONS)
