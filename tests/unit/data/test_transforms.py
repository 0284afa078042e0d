import math
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from transferline import policy
from transferline.data import geometry, transforms
from transferline.data.preprocess import Resize

TRANSFORMS = get_args(get_args(policy.Transform)[0])
GRADIENT = np.stack([*np.mgrid[0:48, 0:64] * 3, np.full((48, 64), 90)], axis=-1).astype(np.uint8)


def a(name: str, **options: object) -> policy.Transform:
    made: policy.Transform = TypeAdapter(policy.Transform).validate_python({"name": name, "p": 1.0, **options})
    return made


def view(*chosen: policy.Transform, seed: int = 0, pixels: np.ndarray = GRADIENT, size: int = 32) -> np.ndarray:
    return transforms.views(pixels, Resize(size), chosen, [[seed]]).numpy()[1]


def clean(pixels: np.ndarray = GRADIENT, size: int = 32) -> np.ndarray:
    return transforms.views(pixels, Resize(size), (), []).numpy()[0]


def names() -> list[str]:
    return [get_args(kind.model_fields["name"].annotation)[0] for kind in TRANSFORMS]


def test_the_clean_view_is_the_resize_itself():
    expected = Resize(32)(torch.from_numpy(GRADIENT)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(clean(), expected)
    np.testing.assert_array_equal(view(), expected)


@pytest.mark.parametrize("name", names())
def test_every_transform_of_the_policy_changes_the_image_and_only_by_its_seed(name):
    first = view(a(name), seed=3)
    assert first.dtype == np.uint8
    assert first.shape == (32, 32, 3)
    assert (first != clean()).any()
    np.testing.assert_array_equal(first, view(a(name), seed=3))


@pytest.mark.parametrize("name", sorted(set(names()) - {"quarter_turns", "horizontal_flip", "vertical_flip"}))
def test_another_seed_draws_other_parameters(name):
    assert (view(a(name), seed=3) != view(a(name), seed=4)).any()


@pytest.mark.parametrize("name", names())
def test_switched_off_or_at_probability_zero_nothing_happens(name):
    np.testing.assert_array_equal(view(a(name, enabled=False)), clean())
    np.testing.assert_array_equal(view(a(name, p=0.0)), clean())


def test_probability_one_half_applies_about_half_the_time():
    made = transforms.views(GRADIENT, Resize(32), [a("horizontal_flip", p=0.5)], [[seed] for seed in range(200)])
    applied = (made[1:] != made[0]).flatten(1).any(dim=1).sum()
    assert 75 <= applied <= 125


def test_flips_mirror_and_quarter_turns_draw_three_turns():
    np.testing.assert_array_equal(view(a("horizontal_flip")), clean()[:, ::-1])
    np.testing.assert_array_equal(view(a("vertical_flip")), clean()[::-1])
    turned = {view(a("quarter_turns"), seed=seed).tobytes() for seed in range(40)}
    assert turned == {np.rot90(clean(), turns).tobytes() for turns in (1, 2, 3)}


def test_rotation_is_counter_clockwise():
    turned = view(a("rotation", degrees=[90, 90])).astype(int)
    np.testing.assert_allclose(turned, np.rot90(clean()), atol=1)


def test_borders_are_mirrored_and_never_black():
    white = np.full((40, 40, 3), 255, dtype=np.uint8)
    for chosen in (a("rotation", degrees=[45, 45]), a("shift", fraction=1.0), a("scale", factor=[0.1, 0.1])):
        for seed in range(3):
            assert view(chosen, seed=seed, pixels=white).min() == 255


def test_a_shift_moves_pixels_by_what_was_drawn():
    moved = geometry.move(torch.arange(100.0).reshape(1, 10, 10), [a("shift", fraction=0.3)], np.random.default_rng(2))
    right, down = np.random.default_rng(2).uniform(-0.3, 0.3, size=2) * 10
    centre = 10 * (5 - down) + (5 - right)
    assert float(moved[0, 5, 5]) == pytest.approx(centre, abs=1e-3)


def test_scale_zooms_about_the_centre():
    dot = np.zeros((33, 33, 3), dtype=np.uint8)
    dot[15:18, 15:18] = 255
    grown = view(a("scale", factor=[3, 3]), pixels=dot, size=33)
    assert grown[16, 16, 0] == 255
    assert (grown[..., 0] > 127).sum() == pytest.approx(81, abs=8)
    assert abs(np.argwhere(grown[..., 0] > 127).mean() - 16) < 0.1


def test_affine_transforms_in_a_row_move_as_they_would_one_by_one():
    chain = [a("shift", fraction=0.2), a("rotation", degrees=[30, 30]), a("scale", factor=[1.3, 1.3])]
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 65), torch.linspace(0, 1, 65), indexing="ij")
    image = torch.stack([rows, columns, rows * columns])
    rng = np.random.default_rng(0)
    one_by_one = image
    for step in chain:
        one_by_one = geometry.move(one_by_one, [step], rng)
    at_once = geometry.move(image, chain, np.random.default_rng(0))
    inner = slice(22, 43)
    torch.testing.assert_close(at_once[:, inner, inner], one_by_one[:, inner, inner], atol=5e-3, rtol=0)


def test_a_random_resized_crop_is_cut_before_the_resize():
    fine = np.zeros((256, 256, 3), dtype=np.uint8)
    fine[:, ::2] = 255  # a pattern that only an uncropped resize averages to grey
    cut = view(a("random_resized_crop", area=[0.0157, 0.0157], ratio=[1, 1]), pixels=fine)
    assert set(np.unique(cut)) == {0, 255}


@pytest.mark.parametrize(("name", "mean"), [("brightness", 60), ("contrast", None), ("saturation", 120)])
def test_colour_factors_of_one_change_nothing_and_zero_takes_all_away(name, mean):
    np.testing.assert_allclose(view(a(name, factor=[1, 1])).astype(int), clean(), atol=1)
    emptied = view(a(name, factor=[0, 0])).astype(float)
    spread = {"brightness": emptied.max(), "contrast": np.ptp(emptied), "saturation": np.ptp(emptied, axis=-1).max()}
    assert spread[name] <= 1


def test_half_a_turn_of_hue_makes_red_cyan():
    red = np.zeros((32, 32, 3), dtype=np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(view(a("hue", turn=[0.5, 0.5]), pixels=red)[0, 0].astype(int), [0, 255, 255], atol=1)


def test_noise_has_the_deviation_asked_for():
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    noisy = view(a("gaussian_noise", sigma=[10, 10]), pixels=grey, size=64).astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_blur_keeps_the_mean_and_serves_kernels_wider_than_the_image():
    sharp = np.zeros((32, 32, 3), dtype=np.uint8)
    sharp[:, 16:] = 200
    for sigma in (1.5, 20):
        soft = view(a("blur", sigma=[sigma, sigma]), pixels=sharp).astype(float)
        assert soft.mean() == pytest.approx(100, abs=1)
        assert np.abs(np.diff(soft, axis=1)).max() < 100


def test_erasing_covers_the_area_asked_for():
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    erased = view(a("random_erasing", area=[0.25, 0.25], ratio=[1, 1]), pixels=grey, size=64)
    box = np.argwhere((erased != 128).any(axis=-1))
    assert np.ptp(box, axis=0).tolist() == [31, 31]


def test_a_box_that_fits_nowhere_is_not_drawn():
    assert geometry.draw_box(10, 10, (0.9, 0.9), (9.0, 9.0), np.random.default_rng(0)) is None
    top, left, height, width = geometry.draw_box(30, 60, (0.5, 0.5), (2.0, 2.0), np.random.default_rng(0)) or ()
    assert (height, width) == (round(math.sqrt(450)), round(math.sqrt(1800)))
    assert top + height <= 30
    assert left + width <= 60


STORED = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


def redrawn(*chosen: policy.Transform, seed: int = 0) -> np.ndarray:
    return transforms.drawn(STORED, chosen, [(seed, epoch) for epoch in range(5)]).numpy()


@pytest.mark.parametrize("name", names())
def test_a_view_drawn_of_a_stored_image_depends_on_its_seed_alone(name):
    first = redrawn(a(name), seed=3)
    assert first.dtype == np.uint8
    assert first.shape == tuple(STORED.shape)
    np.testing.assert_array_equal(first, redrawn(a(name), seed=3))
    alone = transforms.drawn(STORED[2:3], [a(name)], [(3, 2)]).numpy()
    np.testing.assert_array_equal(first[2:3], alone)


@pytest.mark.parametrize("name", sorted(set(names()) - {"horizontal_flip", "vertical_flip"}))
def test_views_drawn_with_other_seeds_differ(name):
    assert (redrawn(a(name), seed=3) != redrawn(a(name), seed=4)).any()


@pytest.mark.parametrize("chosen", [(), (a("rotation", enabled=False), a("blur", p=0.0))], ids=["none", "none on"])
def test_where_nothing_is_switched_on_stored_images_are_drawn_as_they_are(chosen):
    np.testing.assert_array_equal(redrawn(*chosen), STORED.numpy())


def test_a_view_drawn_later_is_the_one_that_would_have_been_stored():
    chosen = [a("horizontal_flip", p=0.5), a("rotation"), a("contrast"), a("gaussian_noise"), a("random_erasing")]
    beforehand = transforms.views(STORED[0].numpy(), Resize(32), chosen, [(7, view) for view in range(4)])[1:]
    later = transforms.drawn(STORED[:1].repeat(4, 1, 1, 1), chosen, [(7, view) for view in range(4)])
    assert torch.equal(beforehand, later)


def test_stored_images_are_left_as_they_are():
    before = STORED.clone()
    redrawn(*(a(name) for name in names()))
    assert torch.equal(STORED, before)
