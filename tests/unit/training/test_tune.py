"""The study: what is sampled reaches the optimiser, and a kill loses nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from tests.conftest import ListRecorder
from tests.unit.model import menu
from tests.unit.training.conftest import MODEL, SEARCH, tuner
from transferline.errors import UserError
from transferline.fitting import Finetune
from transferline.model.activations import Cache
from transferline.model.engines import EVERY
from transferline.sections import Activations, Model
from transferline.training import plan, probe, tune
from transferline.training.choice import Tried
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.training.health import NotFiniteError
from transferline.training.pictures import draw_study
from transferline.training.study import Shared
from transferline.tuning import IntRange, Search, Start, Tune


def test_a_study_trains_for_real_and_reports_its_best(
    splits: Splits, recorder: ListRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "probe", probe.probe)
    best, study = tuner(splits, trials=2, recorder=recorder).run()
    assert [name for name, _, _ in recorder.children] == ["probe", "trial 000", "trial 001"]
    assert best.value == max(trial.value for trial in study.trials if trial.value is not None)
    assert all({"objective", "seconds"} == set(run.metrics[-1][1]) for _, _, run in recorder.children[1:])
    assert {"cv_loss", "val_loss"} <= set(recorder.children[0][2].metrics[-1][1])
    draw_study(study, tmp_path / "reports")
    assert (tmp_path / "reports" / "trials.csv").read_text().count("\n") == 3
    assert (tmp_path / "reports" / "history.png").stat().st_size > 5000


def test_sampled_values_reach_the_training(splits: Splits, trained: list[dict[str, Any]]) -> None:
    recorder = ListRecorder()
    extra = Search.model_validate(
        {
            "batch_size": (8, 16, 32),
            "weight_decay": {"low": 0.1, "high": 0.2},
            "dropout": {"low": 0.3, "high": 0.4},
            "label_smoothing": {"low": 0.0, "high": 0.2},
        }
    )
    best, _ = tuner(splits, 7, recorder, search=extra).run()
    asked = [params for _, params, _ in recorder.children[1:]]
    for params, call in zip(asked, trained, strict=True):
        net = call["net"]
        assert (call["lr"], call["batch_size"]) == (params["lr"], params["batch_size"])
        assert (net.freeze_depth, net.head.dropout.p) == (params["freeze_depth"], params["dropout"])
        assert call["config"].weight_decay == params["weight_decay"]
        assert call["config"].label_smoothing == params["label_smoothing"]
    assert len({params["freeze_depth"] for params in asked[:5]}) == 5  # the first ones, at two rates
    assert len({params["lr"] for params in asked}) == 4
    winner = min(trained, key=lambda call: abs(call["lr"] - 2e-3))
    assert (best.lr, best.choices["dropout"]) == (winner["lr"], winner["net"].head.dropout.p)


@pytest.mark.parametrize(
    ("passes", "start", "expected"),
    [(1e9, None, range(1, 5)), (1e9, 2, range(1, 5)), (0.0, None, [4]), (0.0, 2, [2, 4])],
)
def test_activations_are_kept_where_a_trial_can_be_afforded_and_where_the_user_starts(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, passes: float, start: int | None, expected: Sequence[int]
) -> None:
    monkeypatch.setattr(plan, "SEARCH_PASSES", passes)
    monkeypatch.setattr(plan, "cached_depths", lambda works: list(range(1, 1 + len(works))))
    asked: list[set[int]] = []
    monkeypatch.setattr(tune, "kept_splits", lambda *given: asked.append(given[-1]) or {})
    net = menu.make("small_cnn", 32)
    config = Tune(start=Start(freeze_depth=start))
    given: dict[str, Any] = {"cache": Cache(Activations(mode="off")), "recorder": ListRecorder(), "seed": 1}
    model = Model(backbone="small_cnn", weights="none", input_size=32)
    tune.Tuner(splits, model, config, Finetune(), data_key="key", **given)._embed(net)
    assert asked == [{*expected, 4, EVERY}]


def test_the_first_trial_is_the_start(splits: Splits, trained: list[dict[str, Any]]) -> None:
    run = tuner(splits, 1)
    run.run()
    assert (trained[0]["lr"], trained[0]["batch_size"]) == (run.config.start.lr, run.config.start.batch_size)
    assert trained[0]["net"].freeze_depth == run.config.start.freeze_depth == 3


def test_a_study_continues_and_repeats_nothing(splits: Splits, trained: list[dict[str, Any]]) -> None:
    tuner(splits, 3).run()
    _, study = tuner(splits, 6).run()
    assert len(study.trials) == len(trained) == 6
    assert len({(call["lr"], call["net"].freeze_depth) for call in trained}) == 6


def test_a_finished_study_is_not_tried_again(splits: Splits, trained: list[dict[str, Any]]) -> None:
    first, _ = tuner(splits, 2).run()
    again, _ = tuner(splits, 2).run()
    assert first == again
    assert len(trained) == 2


def test_a_trial_killed_in_flight_is_tried_again(
    splits: Splits, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> History:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "adapt", killed)
        with pytest.raises(SystemExit):
            tuner(splits, 3).run()
    _, study = tuner(splits, 3).run()
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 3
    assert TrialState.RUNNING not in states
    assert study.trials[0].params["freeze_depth"] in {call["net"].freeze_depth for call in trained}


def test_other_data_is_another_study() -> None:
    config, names = Tune(), set()
    for seed, key, trials in ((1, "a", 6), (1, "a", 9), (1, "b", 6), (2, "a", 6)):
        names.add(tune.study_name(MODEL, config.model_copy(update={"trials": trials}), Finetune(), seed, key))
    assert len(names) == 3


@pytest.mark.parametrize(("changed", "same"), [({"epochs": 9}, False), ({"refit": True}, True)])
def test_another_way_to_train_a_trial_is_another_study(changed: dict[str, Any], same: bool) -> None:
    one, other = (tune.study_name(MODEL, Tune(), finetune, 1, "a") for finetune in (Finetune(), Finetune(**changed)))
    assert (one == other) is same


def test_trials_of_one_batch_size_are_drawn(splits: Splits, trained: list[dict[str, Any]], tmp_path: Path) -> None:
    _, study = tuner(splits, 6, search=Search(batch_size=(32,), freeze_depth=SEARCH.freeze_depth)).run()
    draw_study(study, tmp_path / "reports")
    assert (tmp_path / "reports" / "parallel.png").stat().st_size > 0


@pytest.mark.parametrize(("peers", "expected"), [(5, TrialState.PRUNED), (4, TrialState.COMPLETE)])
def test_a_hopeless_trial_is_pruned_but_for_the_first_ones(splits: Splits, peers: int, expected: TrialState) -> None:
    search = tuner(splits, peers + 1)
    assert len(search.plan.first) == 5
    rest: dict[str, Any] = {"first": search._first(), "sample": search._sample, "more": search._more}
    study = Shared(search.folder, search.name, search.config, seed=3, **rest).open()
    for value in (1.5, 1.6, 1.7, 1.8, 1.9)[:peers]:  # better than any trial can be
        params = {"lr": 1e-3, "batch_size": 4, "freeze_depth": 2}
        space = {
            "lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
            "batch_size": optuna.distributions.CategoricalDistribution([4, 6]),
            "freeze_depth": optuna.distributions.IntDistribution(2, 13),
        }
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=space, value=value, intermediate_values={100: value})
        )
    _, study = search.run()
    finished = [trial.state for trial in study.trials if trial.state != TrialState.WAITING]
    assert finished == [expected] + [TrialState.COMPLETE] * peers


def test_first_trials_that_freeze_half_of_the_blocks_or_more_are_gentle(splits: Splits) -> None:
    def rates(**start: int) -> dict[int, float]:
        search = tuner(splits, 9, start=Start(lr=4e-3, batch_size=4, **start))
        return {values["freeze_depth"]: values["lr"] for values in search._first()}

    assert rates() == {13: 4e-3, 12: 1e-3, 6: 4e-3, 7: 1e-3, 4: 4e-3}
    assert rates(freeze_depth=9)[9] == 4e-3, "what was given"


def test_trials_of_the_head_alone_are_no_peers(splits: Splits, trained: list[dict[str, Any]]) -> None:
    tuner(splits, 4).run()
    assert {call["net"].freeze_depth == 13: bool(call["callbacks"]) for call in trained} == {True: False, False: True}


def test_a_depth_beyond_the_backbone_is_refused_before_training(splits: Splits) -> None:
    deep = Search(batch_size=(32,), freeze_depth=IntRange(low=0, high=20))
    with pytest.raises(UserError, match=r"freeze_depth\.high: 20 .*has 13 blocks\n.*nearest right value is 13"):
        tuner(splits, 1, search=deep)


def test_no_trials_means_the_values_of_params_yaml(splits: Splits, project: Path) -> None:
    run = tuner(splits, 0)
    best, study = run.run()
    assert study is None
    assert (best.lr, best.batch_size, best.freeze_depth, best.value) == (1e-3, 4, 3, None)
    run.keep_winner(project / "winner.safetensors")
    assert Tried.read(project / "winner.safetensors").state == {}


def test_without_trials_and_a_depth_the_probe_says_how_deep_to_freeze(splits: Splits) -> None:
    run = tuner(splits, 0, start=Start(batch_size=4))
    run.probed = replace(run.probed, depth=9)
    assert run.run()[0].freeze_depth == 9


def test_the_first_trial_freezes_to_the_block_that_is_named(splits: Splits, trained: list[dict[str, Any]]) -> None:
    start = Start.model_validate({"lr": 1e-3, "batch_size": 4, "freeze_to": "features.4"})
    tuner(splits, 1, start=start).run()
    assert trained[0]["net"].freeze_depth == 5
    assert tuner(splits, 0, start=start).run()[0].freeze_depth == 5


def test_every_trial_starts_at_the_head_of_the_probe(splits: Splits, trained: list[dict[str, Any]]) -> None:
    run = tuner(splits, 2)
    run.run()
    for call in trained:
        head = call["net"].head
        assert head.taps == tuple(run.probed.taps)
        assert torch.equal(head.linear.weight, run.start.head.linear.weight)
        assert torch.equal(head.mean, run.start.head.mean)
        assert not torch.equal(head.mean, torch.zeros_like(head.mean))


def test_a_trial_is_trained_as_finetune_says_and_judged_by_the_objective(
    splits: Splits, trained: list[dict[str, Any]]
) -> None:
    tuner(splits, 1, epochs=5, optimizer="sgd", monitor="accuracy").run()
    config = trained[0]["config"]
    assert (config.epochs, config.optimizer, config.monitor) == (5, "sgd", "macro_f1")


def test_of_trials_that_are_alike_the_most_frozen_is_taken(splits: Splits, trained: list[dict[str, Any]]) -> None:
    """Without training, all give the same logits, whatever loss they reported."""
    run = tuner(splits, 4, objective="loss")
    best, study = run.run()
    assert study is not None
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert best.freeze_depth == max(call["net"].freeze_depth for call in trained) == 13


def test_the_winner_is_kept_for_finetune(splits: Splits, project: Path) -> None:
    run = tuner(splits, 2)
    best, _ = run.run()
    run.keep_winner(project / "winner.safetensors")
    kept = Tried.read(project / "winner.safetensors")
    assert kept.logits.shape == (15, 3)
    blocks = {int(key.split(".")[1]) for key in kept.state if key.startswith("blocks.")}
    assert blocks == set(range(best.freeze_depth, 13))


def test_by_rule_trials_stay_within_the_budget(splits: Splits, trained: list[dict[str, Any]]) -> None:
    run = tuner(splits, "auto", epochs=10, start=Start(batch_size=4))
    run.plan = replace(run.plan, budget=2.5 * run.plan.cost(13) + run.plan.cost(12))
    run.plan = plan.with_first(run.plan, run.config, run.probed.depth)
    run.run()
    tried = [call["net"].freeze_depth for call in trained]
    assert tried[:2] == [13, 12]
    assert 3 <= len(tried) <= plan.MOST_TRIALS
    assert sum(run.plan.cost(depth) for depth in tried) <= run.plan.budget


def test_by_the_clock_a_study_that_goes_on_keeps_its_plan(
    splits: Splits, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (0.1, 0.7):
        monkeypatch.setattr(plan, "measure", lambda *_, seconds=seconds: seconds)
        run = tuner(splits, "auto", minutes=30.0, search=Search(batch_size=(4,)))
        assert run.plan.unit == "seconds"
        assert run.plan.costs[13] == 0.1


def test_where_no_trial_comes_to_its_end_the_reasons_are_named(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: Any, **__: Any) -> History:
        raise NotFiniteError("the loss is nan", "look")

    monkeypatch.setattr(tune, "adapt", diverges)
    with pytest.raises(UserError) as raised:
        tuner(splits, 2).run()
    assert raised.value.what == (
        "tune: none of 2 trials came to its end (trial 1: the loss is nan; trial 2: the loss is nan)"
    )
    for key in ("tune.search.lr", "finetune.gradient_clip", "tune.search.batch_size"):
        assert key in raised.value.fix
