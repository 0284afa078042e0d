"""The study: what is sampled reaches the optimiser, and a kill loses nothing."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.conftest import ListRecorder
from tests.unit.training.conftest import MODEL, SEARCH, tuner
from transferline.errors import UserError
from transferline.training import budget, tune
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.training.pictures import draw_study
from transferline.training.start import start_as_best
from transferline.tuning import IntRange, Search, Start, Tune


def test_a_study_trains_for_real_and_reports_its_best(splits: Splits, recorder: ListRecorder, tmp_path: Path) -> None:
    best, study = tuner(splits, trials=2, recorder=recorder).run()
    assert [name for name, _, _ in recorder.children] == ["trial 000", "trial 001"]
    assert best.value == max(trial.value for trial in study.trials if trial.value is not None)
    assert all({"objective", "seconds"} == set(run.metrics[-1][1]) for _, _, run in recorder.children)
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
    best, _ = tuner(splits, 5, recorder, search=extra).run()
    asked = [params for _, params, _ in recorder.children]
    for params, call in zip(asked, trained, strict=True):
        net = call["net"]
        assert (call["lr"], call["batch_size"]) == (params["lr"], params["batch_size"])
        assert (net.freeze_depth, net.head.dropout.p) == (params["freeze_depth"], params["dropout"])
        assert call["config"].weight_decay == params["weight_decay"]
        assert call["config"].label_smoothing == params["label_smoothing"]
    assert len({params["lr"] for params in asked}) == 5
    winner = min(trained, key=lambda call: abs(call["lr"] - 2e-3))
    assert (best.lr, best.choices["dropout"]) == (winner["lr"], winner["net"].head.dropout.p)


def test_the_first_trial_is_the_start(splits: Splits, trained: list[dict[str, Any]]) -> None:
    run = tuner(splits, 1)
    run.run()
    assert (trained[0]["lr"], trained[0]["batch_size"]) == (run.config.start.lr, run.config.start.batch_size)


def test_a_study_continues_and_repeats_nothing(splits: Splits, trained: list[dict[str, Any]]) -> None:
    tuner(splits, 3).run()
    _, study = tuner(splits, 6).run()
    assert len(study.trials) == len(trained) == 6
    assert len({call["lr"] for call in trained}) == 6


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
        patch.setattr(tune, "fit", killed)
        with pytest.raises(SystemExit):
            tuner(splits, 3).run()
    _, study = tuner(splits, 3).run()
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 3
    assert TrialState.RUNNING not in states
    assert study.trials[0].params["lr"] in {call["lr"] for call in trained}


def test_other_data_is_another_study() -> None:
    config, names = Tune(), set()
    for seed, key, trials in ((1, "a", 6), (1, "a", 9), (1, "b", 6), (2, "a", 6)):
        names.add(tune.study_name(MODEL, config.model_copy(update={"trials": trials}), seed, key))
    assert len(names) == 3


def test_a_loss_is_minimised(splits: Splits, trained: list[dict[str, Any]]) -> None:
    best, study = tuner(splits, 4, objective="loss").run()
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert best.value == min(trial.value for trial in study.trials if trial.value is not None)


def test_trials_of_one_batch_size_are_drawn(splits: Splits, trained: list[dict[str, Any]], tmp_path: Path) -> None:
    _, study = tuner(splits, 3, search=Search(batch_size=(32,), freeze_depth=SEARCH.freeze_depth)).run()
    draw_study(study, tmp_path / "reports")
    assert (tmp_path / "reports" / "parallel.png").stat().st_size > 0


def test_a_hopeless_trial_is_pruned(splits: Splits) -> None:
    recorder = ListRecorder()
    search = tuner(splits, 4, recorder)
    study = search.shared.open()
    for value in (0.9, 0.95, 0.97):
        params = {"lr": 1e-3, "batch_size": 8, "freeze_depth": 2}
        space = {
            "lr": optuna.distributions.FloatDistribution(3e-4, 5e-3, log=True),
            "batch_size": optuna.distributions.CategoricalDistribution([8, 16, 32]),
            "freeze_depth": optuna.distributions.IntDistribution(2, 13),
        }
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=space, value=value, intermediate_values={100: value})
        )
    _, study = search.run()
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] + [TrialState.COMPLETE] * 3


def test_a_depth_beyond_the_backbone_is_refused_before_training(splits: Splits) -> None:
    deep = Search(batch_size=(32,), freeze_depth=IntRange(low=0, high=20))
    with pytest.raises(UserError, match=r"freeze_depth\.high: 20 .*has 13 blocks\n.*nearest right value is 13"):
        tuner(splits, 1, search=deep)


def test_no_trials_means_the_values_of_params_yaml() -> None:
    best = start_as_best(Tune(trials=0), "resnet18", "run")
    start = Tune().start
    assert (best.lr, best.batch_size, best.freeze_depth, best.value) == (
        start.lr,
        start.batch_size,
        start.freeze_depth,
        None,
    )


def test_the_first_trial_freezes_to_the_block_that_is_named(splits: Splits, trained: list[dict[str, Any]]) -> None:
    start = {"lr": 1e-3, "batch_size": 8, "freeze_to": "features.4"}
    tuner(splits, 1, start=Start.model_validate(start)).run()
    assert trained[0]["net"].freeze_depth == 5
    best = start_as_best(Tune(trials=0, start=Start.model_validate(start)), MODEL.backbone, "run")
    assert best.freeze_depth == 5


def test_with_a_budget_of_seconds_a_cheap_depth_gets_more_epochs(
    splits: Splits, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.budget, "measure", lambda net, *_: tune.budget.Cost(0.1 / max(net.freeze_depth, 1), 0.0))
    tuner(splits, 6, budget="seconds", seconds=10.0).run()
    spent = {call["net"].freeze_depth: call["config"].epochs for call in trained}
    assert len(spent) > 1
    assert [spent[depth] for depth in sorted(spent)] == sorted(spent.values())
    assert spent[max(spent)] > spent[min(spent)]


def test_a_trial_too_slow_for_its_seconds_sees_fewer_images(
    splits: Splits, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "measure", lambda *_: budget.Cost(2.0, 0.0))
    tuner(splits, 1, budget="seconds", seconds=24.0).run()
    assert [(call["config"].epochs, call["fraction"]) for call in trained] == [(1, 0.25)]  # 12 of 48 images
