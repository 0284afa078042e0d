"""The linear probe: features behind every block, what the head is to see, and the head that starts as the probe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.model import menu
from transferline import sections
from transferline.artifacts import Arrays
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, predict_logits, rebuild
from transferline.model.engines import EVERY
from transferline.sections import Activations
from transferline.training.data import Splits, kept_splits
from transferline.training.probe import UNSEEN, BlockFeatures, block_features, fit_head, probe, suggested_depth

WIDTHS = [32, 64, 128]  # of small_cnn: mean and maximum of each channel; 128 more of the last block


@pytest.fixture(scope="module")
def net() -> Classifier:
    return menu.make("small_cnn", 32)


@pytest.fixture(scope="module")
def features(net: Classifier, splits: Splits) -> BlockFeatures:
    return block_features(net, splits, {}, "torch")


def test_features_are_pooled_behind_every_block_in_order(
    net: Classifier, splits: Splits, features: BlockFeatures
) -> None:
    given = torch.from_numpy(splits.val.images[:, 0].copy()).permute(0, 3, 1, 2).float()
    parts, behind = [], net.eval().normalise(given)
    with torch.inference_mode():
        for block in net.blocks:
            behind = block(behind)
            parts += [behind.mean((2, 3)), behind.amax((2, 3))]
    expected = torch.cat(parts[:-1], 1).numpy()  # of the last block what the head pools, which is the mean
    assert features.widths == WIDTHS
    np.testing.assert_allclose(features.val, expected, rtol=1e-4, atol=1e-4)
    assert features.train.shape == (48, sum(WIDTHS) + 128)


def test_what_the_cache_keeps_is_the_same_as_a_pass_over_the_clean_images(
    net: Classifier, splits: Splits, features: BlockFeatures, tmp_path: Path
) -> None:
    kept = kept_splits(Cache(Activations(engine="torch"), tmp_path), net, splits, {EVERY, 4})
    found = block_features(net, splits, kept)
    for one, other in ((found.train, features.train), (found.val, features.val)):
        assert one.dtype == np.float32
        assert not np.array_equal(one, other), "nothing was kept in 16 bits"
        np.testing.assert_allclose(one, other, rtol=2**-10, atol=1e-4)
    assert found.widths == features.widths


def test_a_head_sees_its_taps_and_the_last_block(features: BlockFeatures) -> None:
    np.testing.assert_array_equal(features.columns([]), np.arange(224, 352))
    np.testing.assert_array_equal(features.columns([1, 3]), [*range(32), *range(96, 352)])
    np.testing.assert_array_equal(features.columns([1, 2, 3]), np.arange(352))


# --- what the head is to see ----------------------------------------------------------------


def made(
    separating: set[int], count: int = 240, widths: tuple[int, ...] = (6, 6, 6, 6)
) -> tuple[BlockFeatures, Arrays]:
    """Four blocks of which those in `separating`, of six numbers each, tell the three classes apart, others nothing."""
    rng = np.random.default_rng(4)
    labels, centres = np.arange(count, dtype=np.int64) % 3, 1.5 * rng.normal(size=(3, 6))
    blocks = [rng.normal(size=(count, width)) for width in widths]
    for number in separating:
        blocks[number - 1] += centres[labels]
    never_seen = np.full((9, sum(widths)), np.nan, np.float32)
    arrays = Arrays(np.zeros((count, 1, 1, 1, 3), np.uint8), labels, [""] * count, ["a", "b", "c"])
    return BlockFeatures(np.hstack(blocks).astype(np.float32), never_seen, list(widths[:-1])), arrays


def test_where_only_early_blocks_tell_classes_apart_the_head_sees_all_and_all_are_adapted() -> None:
    found = probe(*made({1}), sections.Head(), seed=0)
    assert (found.features, found.taps, found.depth) == ("all", [1, 2, 3], 1)
    losses = {option.name: option.loss for option in found.options}
    assert losses["all"] < 0.7 * losses["last"]
    assert found.alone[0].accuracy > 0.8 > max(option.accuracy for option in found.alone[1:])


def test_where_the_last_block_knows_all_nothing_below_is_adapted_and_little_is_gained_by_seeing_it() -> None:
    found = probe(*made({4}), sections.Head(), seed=0)
    assert found.depth == 4
    losses = {option.name: option.loss for option in found.options}
    assert list(losses) == ["last", "last half", "all"]
    assert 0.8 * losses["last"] < found.taken.loss == min(losses.values())
    assert found.alone[3].accuracy > 0.8 > max(option.accuracy for option in found.alone[:3])


def test_the_head_sees_all_blocks_unless_fewer_are_better_beyond_chance() -> None:
    assert probe(*made({3}), sections.Head(), seed=0).features == "all", "the first two blocks are a little noise"


@pytest.mark.parametrize(
    ("separating", "widths", "features", "taps"),
    [(4, (300, 300, 300, 6), "last", []), (3, (600, 600, 6, 6), "last half", [3])],
)
def test_where_early_blocks_are_much_noise_the_head_does_not_see_them(
    separating: int, widths: tuple[int, ...], features: str, taps: list[int]
) -> None:
    found = probe(*made({separating}, widths=widths), sections.Head(), seed=0)
    assert (found.features, found.taps, found.depth) == (features, taps, separating)


@pytest.mark.parametrize(("wanted", "taps"), [("last", []), ("blocks", [1, 2, 3])])
def test_what_the_head_is_told_to_see_is_not_chosen(wanted: str, taps: list[int]) -> None:
    found = probe(*made({1} if wanted == "last" else {4}), sections.Head.model_validate({"features": wanted}), seed=0)
    assert found.taps == taps
    assert len(found.options) == 1
    assert [option.name for option in found.upwards] == [f"from block {number}" for number in range(1, 5)]
    assert [option.name for option in found.alone] == [f"block {number}" for number in range(1, 5)]


def test_copies_of_an_image_do_not_make_features_look_better() -> None:
    """Noise, each image four times: only who has seen a copy could know its label."""
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=(60, 80)).repeat(4, 0).astype(np.float32), rng.integers(0, 2, 60).repeat(4)
    images = np.zeros((240, 1, 1, 1, 3), np.uint8)
    arrays = Arrays(images, labels, [""] * 240, ["a", "b"], groups=np.arange(60).repeat(4))
    given = BlockFeatures(values, values, [40])
    honest, cheated = (probe(given, each, sections.Head(), 0) for each in (arrays, replace(arrays, groups=None)))
    assert honest.taken.accuracy < 0.65
    assert cheated.taken.accuracy > 0.9


FLAT = np.ones(16)
UNEVEN = np.where(np.arange(16) % 2, 1.9, -1.7)  # 0.1 in the mean, with a standard error of 0.45


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([FLAT, FLAT, FLAT], 3),
        ([FLAT - 0.5, FLAT, FLAT], 1),
        ([FLAT - 0.5, FLAT - 0.5, FLAT], 2),
        ([FLAT - 1.0, FLAT - 0.5, FLAT], 1),
        ([FLAT - 1.05, FLAT - 1.0, FLAT], 2),  # block 1 adds a twentieth of the gain
        ([FLAT, FLAT - UNEVEN, FLAT], 3),  # by chance
        ([FLAT + 0.5, FLAT + 0.5, FLAT], 3),  # further features do harm
        ([FLAT], 1),
    ],
)
def test_the_depth_is_that_of_the_first_block_that_adds(losses: list[np.ndarray], expected: int) -> None:
    assert suggested_depth(losses) == expected


# --- the head that starts as the probe ------------------------------------------------------


def headed(net: Classifier, classes: int, taps: list[int], **head: object) -> Classifier:
    card = replace(net.card, classes=[str(number) for number in range(classes)], taps=taps)
    return rebuild(net, replace(card, head=sections.Head.model_validate(head)), 0)


def relative(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("taps", [[], [2], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifiers_logits_are_the_probes_up_to_a_constant_for_each_image(
    net: Classifier, splits: Splits, features: BlockFeatures, classes: int, taps: list[int]
) -> None:
    made, labels = headed(net, classes, taps), splits.train.labels % classes
    columns = features.columns(taps)
    found = fit_head(made, features.train[:, columns], labels, 30.0, seed=0)
    logits = predict_logits(made, splits.val.images[:, 0], 5)
    expected = found.scores(features.val[:, columns])
    assert np.ptp(relative(expected), axis=0).min() > 0.1, "images are told apart"
    np.testing.assert_allclose(relative(logits), relative(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("taps", [[], [1, 3]], ids=str)
def test_the_logits_of_several_labels_are_the_probes(
    net: Classifier, splits: Splits, features: BlockFeatures, taps: list[int]
) -> None:
    made, single, columns = headed(net, 2, taps), splits.train.labels, features.columns(taps)
    labels = np.stack([single == 0, single != 1], axis=1).astype(np.int64)
    found = fit_head(made, features.train[:, columns], labels, 30.0, seed=0)
    logits = predict_logits(made, splits.val.images[:, 0], 5)
    np.testing.assert_allclose(logits, found.scores(features.val[:, columns]), rtol=1e-3, atol=1e-3)


def test_the_numbers_of_an_image_have_about_unit_length_in_a_linear_head(
    net: Classifier, splits: Splits, features: BlockFeatures
) -> None:
    for taps in ([], [1, 2, 3]):
        made, given = headed(net, 3, taps), features.train[:, features.columns(taps)]
        fit_head(made, given, splits.train.labels, 10.0, seed=0)
        standardised = (torch.from_numpy(given) - made.head.mean) / made.head.scale
        lengths = standardised.norm(dim=1)
        assert 0.3 < float(lengths.mean()) < 1.1
        torch.testing.assert_close(standardised.mean(0), torch.zeros(given.shape[1]), rtol=0, atol=1e-4)


def test_a_class_without_an_image_has_a_finite_logit_that_is_never_the_highest(
    net: Classifier, splits: Splits, features: BlockFeatures
) -> None:
    made = headed(net, 3, [])
    fit_head(made, features.train[:, features.columns([])], splits.train.labels % 2, 10.0, seed=0)
    assert float(made.head.linear.bias.detach()[2]) == -UNSEEN
    logits = predict_logits(made, splits.val.images[:, 0], 5)
    assert np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) == {0, 1}


@pytest.mark.parametrize("every", [0, 1], ids=["on no image", "on every image"])
def test_a_label_on_all_images_alike_has_a_finite_logit(
    net: Classifier, splits: Splits, features: BlockFeatures, every: int
) -> None:
    made = headed(net, 2, [])
    labels = np.stack([splits.train.labels == 0, np.full(48, bool(every))], axis=1).astype(np.int64)
    fit_head(made, features.train[:, features.columns([])], labels, 10.0, seed=0)
    logits = predict_logits(made, splits.val.images[:, 0], 5)
    assert np.isfinite(logits).all()
    assert ((logits[:, 1] > 0) == bool(every)).all()


def test_a_head_with_hidden_layers_is_given_standardised_features_alone(
    net: Classifier, splits: Splits, features: BlockFeatures
) -> None:
    made, given = headed(net, 3, [], hidden=[8]), features.train[:, features.columns([])]
    before = {name: weight.detach().clone() for name, weight in made.head.named_parameters()}
    found = fit_head(made, given, splits.train.labels, 10.0, seed=0)
    assert all(torch.equal(weight, before[name]) for name, weight in made.head.named_parameters())
    torch.testing.assert_close(made.head.mean, torch.from_numpy(found.mean).float())
    torch.testing.assert_close(made.head.scale, torch.from_numpy(found.scale).float())


def test_the_same_images_give_the_same_probe() -> None:
    one, other = (probe(*made({2}, count=60), sections.Head(features="last"), seed=3) for _ in range(2))
    assert one == other
