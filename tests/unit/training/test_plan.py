"""How many trials fit and how long each is: the same by rule every time, and by a clock what it allows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.model import menu
from transferline.artifacts import Plan
from transferline.fitting import FEWEST_EPOCHS, MOST_EPOCHS, Finetune, auto_epochs
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, rebuild
from transferline.model.work import block_work
from transferline.sections import Activations
from transferline.training import plan
from transferline.training.data import Splits, embed
from transferline.tuning import LEAST_IMAGES, IntRange, Search, Start, Tune

# Of trials at depth 0 to 4: 1000, 500, 200, 100, 10.
MADE = Plan("multiply-adds", 10, 1, [100.0, 50.0, 20.0, 10.0, 1.0], 0.0, None, 10_000.0, [], 0.0)


@pytest.fixture(scope="module")
def net() -> Classifier:
    return menu.make("small_cnn", 32)


def test_few_images_are_seen_more_often() -> None:
    epochs = [auto_epochs(images) for images in (1, 350, 700, 900, 3500, 10**6)]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (MOST_EPOCHS, FEWEST_EPOCHS)


def test_the_rule_gives_the_same_plan_whatever_the_weights(net: Classifier) -> None:
    made = plan.by_rule(net, Tune(), Finetune(), 2000)
    assert made == plan.by_rule(menu.make("small_cnn", 32, seed=5), Tune(), Finetune(), 2000)
    assert (made.unit, made.images, made.epochs, made.trials) == ("multiply-adds", 2000, auto_epochs(2000), None)


def test_the_rule_allows_more_for_more_images_but_no_less_for_very_few(net: Classifier) -> None:
    few, least, more = (
        plan.by_rule(net, Tune(), Finetune(), images) for images in (30, LEAST_IMAGES, 2 * LEAST_IMAGES)
    )
    assert few.budget == least.budget == more.budget / 2
    assert few.refit_budget == least.refit_budget == more.refit_budget / 2


def test_a_third_of_the_blocks_frozen_leaves_room_for_the_refit_of_the_sample() -> None:
    train, val = 1400, 300
    made = plan.by_rule(menu.make("efficientnet_lite0", 224), Tune(), Finetune(), train)
    third = (len(made.costs) - 1) // 3
    assert plan.refits(made, Finetune(), third, train + val)
    assert not plan.refits(made, Finetune(), 0, train + val)


def test_a_trial_costs_less_the_more_is_frozen(net: Classifier) -> None:
    made = plan.by_rule(net, Tune(trials=7), Finetune(epochs=4), 100)
    costs = [made.cost(depth) for depth in range(5)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 5
    assert made.cost(0) == 4 * 100 * made.costs[0]
    assert (made.trials, made.epochs) == (7, 4)


def test_the_first_blocks_are_kept_once_they_are_a_tenth_of_the_work() -> None:
    assert plan.cached_depths([1.0, 1.0, 98.0]) == [3]
    assert plan.cached_depths([9.0, 1.0, 90.0]) == [2, 3]


def test_the_head_alone_goes_first_then_the_last_block_then_a_third_half_and_the_probes_depth() -> None:
    assert plan.with_first(MADE, Tune(), 1).first == [4, 3, 1, 2]
    assert plan.with_first(MADE, Tune(), 4).first == [4, 3, 1, 2]
    assert plan.with_first(MADE, Tune(), 0).first == [4, 3, 0, 1, 2]


@pytest.mark.parametrize(("budget", "expected"), [(5, [4]), (250, [4, 3]), (400, [4, 3, 2]), (900, [4, 3, 1, 2])])
def test_first_depths_fit_the_budget_and_the_deepest_gives_way_to_the_nearest(
    budget: float, expected: list[int]
) -> None:
    made = plan.with_first(replace(MADE, budget=budget), Tune(), 0)
    assert made.first == expected
    assert len(expected) == 1 or sum(map(made.cost, made.first)) <= budget


def test_a_depth_to_start_at_goes_first_and_the_search_bounds_all() -> None:
    assert plan.with_first(MADE, Tune(start=Start(freeze_depth=1)), 3).first == [1, 4, 3, 2]
    bounded = Tune(search=Search(freeze_depth=IntRange(low=2, high=3)))
    assert plan.with_first(MADE, bounded, 0).first == [3, 2]


def test_of_so_many_trials_no_more_are_first_whatever_they_cost() -> None:
    assert plan.with_first(replace(MADE, trials=3, budget=1), Tune(trials=3), 0).first == [4, 3, 0]


def test_a_gentle_rate_grows_with_the_images() -> None:
    assert [plan.gentle(images) for images in (10, 400, 600, 800, 10**6)] == [0.25, 0.25, 0.375, 0.5, 0.5]


def test_the_shallowest_is_what_is_left_enough_for() -> None:
    made = replace(MADE, budget=600)
    assert [plan.shallowest(made, 0, 4, spent) for spent in (0, 100, 101, 599)] == [1, 1, 2, None]
    assert plan.shallowest(made, 2, 4, 0) == 2
    assert plan.shallowest(made, 0, 2, 450) is None


def test_training_once_more_is_done_where_it_is_not_much_work_unless_one_says() -> None:
    made = replace(MADE, epochs=3, refit_budget=3 * 20 * 50.0)
    assert plan.refits(made, Finetune(), 1, 20)
    assert not plan.refits(made, Finetune(), 1, 21)
    assert not plan.refits(made, Finetune(), 0, 20)
    assert plan.refits(made, Finetune(refit=True), 0, 10**6)
    assert not plan.refits(made, Finetune(refit=False), 4, 1)


def clocked(half: float, finetune: Finetune | None = None, *, validation: int = 0, spent: float = 20.0) -> Plan:
    """Ten minutes, of which 500 seconds are left; `half` seconds an image where half of five blocks are frozen."""
    config, costs = Tune(minutes=10), [9 * half, 8 * half, 7 * half, half, half / 2, half / 4]
    given, seconds = finetune or Finetune(), costs.__getitem__
    return plan.by_clock(config, given, 100, validation, seconds=seconds, blocks=5, spent=spent)


def test_by_the_clock_trials_and_the_last_training_share_what_is_left() -> None:
    made = clocked(0.1)
    assert (made.unit, made.costs[3], made.overhead) == ("seconds", 0.1, plan.TRIAL)
    assert (made.budget, made.refit_budget) == (pytest.approx(300), pytest.approx(200))
    short = clocked(0.01)  # 100 images, 0.08 seconds each with a third of the blocks frozen
    assert short.refit_budget == pytest.approx(8 * short.epochs)
    assert short.budget == pytest.approx(500 - 8 * short.epochs)
    assert plan.refits(short, Finetune(), 1, 100)
    assert not plan.refits(short, Finetune(), 0, 100)
    assert clocked(0.1, spent=10**6).budget > 0
    answered = clocked(0.1, validation=100)  # 100 images, the time of two steps each, 0.9 seconds a step
    assert answered.budget + answered.refit_budget == pytest.approx(500 - 180)


def test_by_the_clock_epochs_are_fewer_where_they_are_slow() -> None:
    usual = auto_epochs(100)
    assert [clocked(half).epochs for half in (0.25, 0.5, 1.0, 100.0)] == [6, 3, 1, 1]
    assert clocked(1e-6).epochs == 2 * usual
    assert clocked(100.0, Finetune(epochs=7)).epochs == 7


@pytest.mark.parametrize("kept", [False, True], ids=["images", "activations"])
def test_measuring_leaves_the_network_as_it_was(net: Classifier, splits: Splits, kept: bool, tmp_path: Path) -> None:
    tapped = rebuild(net, replace(net.card, taps=[1, 3]), 0)
    tapped.freeze(2)
    before = {key: value.clone() for key, value in tapped.state_dict().items()}
    behind = embed(Cache(Activations(engine="torch"), tmp_path), tapped, splits, {2}).get(2) if kept else None
    assert (behind is not None) == kept
    assert plan.measure(tapped, splits, behind, Finetune(epochs=1), 16) > 0
    assert all(torch.equal(value, tapped.state_dict()[key]) for key, value in before.items())
    assert tapped.freeze_depth == 2


def test_what_is_not_kept_runs_forward_in_every_epoch(net: Classifier) -> None:
    works, made = block_work(net), plan.by_rule(net, Tune(), Finetune(), 100)
    head = sum(weight.numel() for weight in net.head.parameters())
    kept = plan.cached_depths(works)
    for depth, cost in enumerate(made.costs):
        again = 0 if depth in kept else sum(works[:depth])
        assert cost == pytest.approx(3 * (sum(works[depth:]) + head) + again)
