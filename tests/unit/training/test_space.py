"""Any choice is searched by its name: it reaches training, best.json and the stages after it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from timm.layers import DropPath

from tests.conftest import ListRecorder
from tests.unit.training.conftest import MODEL, tuner
from transferline.artifacts import Best, read_best, write_best
from transferline.errors import UserError
from transferline.fitting import Finetune, Fit
from transferline.model.activations import Cache
from transferline.sections import Activations, Head, Model
from transferline.training.data import Splits
from transferline.training.pictures import draw_study
from transferline.training.stages import with_best
from transferline.tuning import IntRange, Search, model_with

EVERYTHING = {
    "batch_size": [8, 16],
    "freeze_depth": {"low": 2, "high": 13},
    "optimizer": ["adamw", "sgd", "timm/lion"],
    "momentum": {"low": 0.5, "high": 0.9},
    "nesterov": [True, False],
    "weight_decay": {"low": 1e-4, "high": 0.1, "log": True},
    "decay_norms_and_biases": [True, False],
    "schedule": ["cosine", "onecycle"],
    "accumulate": {"low": 1, "high": 3},
    "ema": {"low": 0.5, "high": 0.9},
    "layer_decay": {"low": 0.5, "high": 1.0},
    "batchnorm": ["train", "frozen"],
    "loss": ["cross_entropy", "focal"],
    "mixup": {"low": 0.0, "high": 0.5},
    "dropout": {"low": 0.0, "high": 0.5},
    "pooling": ["average", "max"],
    "hidden": [[], [12]],
    "activation": ["relu", "gelu"],
}


def found(best: Best) -> tuple[float, int]:
    return best.lr, best.freeze_depth


LITE = Model(backbone="efficientnet_lite0", weights="none", head=Head(features="last"))


def test_whatever_is_searched_reaches_training_and_best_json(splits: Splits, trained: list[dict[str, Any]]) -> None:
    recorder = ListRecorder()
    search = Search.model_validate(EVERYTHING)
    model = MODEL.model_copy(update={"head": Head(features="last")})
    best, _ = tuner(splits, 20, recorder, search=search, model=model).run()
    tried = [params for _, params, _ in recorder.children[1:]]
    for params, call in zip(tried, trained, strict=True):
        config, head = call["config"], call["net"].head
        assert set(params) == {"lr", *EVERYTHING}
        assert {name: getattr(config, name) for name in params if name in Fit.model_fields} == {
            name: value for name, value in params.items() if name in Fit.model_fields
        }
        assert head.pool.kind == params["pooling"]
        assert head.linear.in_features == (12 if params["hidden"] else 576)
        assert (head.dropout.p, len(head.hidden)) == (params["dropout"], len(params["hidden"]))
    assert len({str(params["hidden"]) for params in tried}) == 2
    winner: Any = next(params for params in tried if (params["lr"], params["freeze_depth"]) == found(best))
    assert set(best.choices) == set(EVERYTHING) - {"batch_size", "freeze_depth"}
    assert best.choices == {name: winner[name] for name in best.choices} | {"hidden": list(winner["hidden"])}
    write_best(best, Path("best.json"))
    chosen = with_best(Finetune(), read_best(Path("best.json")))
    assert (chosen.optimizer, chosen.ema, chosen.accumulate) == (
        winner["optimizer"],
        winner["ema"],
        winner["accumulate"],
    )
    assert model_with(MODEL, read_best(Path("best.json")).choices).head.hidden == winner["hidden"]


def test_a_study_of_every_choice_trains_for_real_and_is_drawn(splits: Splits, tmp_path: Path) -> None:
    space = EVERYTHING | {"freeze_depth": {"low": 12, "high": 13}}
    del space["loss"]  # losses of one kind, which differ where macro-F1 may not
    search = Search.model_validate(space)
    _, study = tuner(splits, 3, search=search, pruner="none", objective="loss").run()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    draw_study(study, tmp_path / "reports")
    header = (tmp_path / "reports" / "trials.csv").read_text().splitlines()[0]
    assert header == ",".join(["trial", "state", "value", *sorted({"lr", *space})])
    assert (tmp_path / "reports" / "importances.png").stat().st_size > 0


def test_values_that_contradict_each_other_are_pruned_with_the_reason(
    splits: Splits, trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search.model_validate(
        {"freeze_depth": {"low": 2}, "sampling": ["shuffled", "balanced"], "norm": ["none", "layer"]}
    )
    _, study = tuner(splits, 8, search=search, class_weights="balanced").run()
    fits = [trial.params["sampling"] == "shuffled" and trial.params["norm"] == "none" for trial in study.trials]
    assert 0 < sum(fits) < 8
    assert [trial.state == TrialState.COMPLETE for trial in study.trials] == fits
    assert len(trained) == sum(fits)
    text = capsys.readouterr().out
    assert "is left out: finetune: sampling and class_weights are both balanced" in text
    assert "is left out: model.head: norm: layer is of hidden layers" in text


def test_where_every_trial_contradicts_itself_that_is_the_message(
    splits: Splits, trained: list[dict[str, Any]]
) -> None:
    search = Search.model_validate({"freeze_depth": {"low": 2}, "sampling": ["balanced"]})
    expected = r"none of 2 trials came to its end \(trial 1: finetune: sampling and class_weights .*; trial 2: finetune"
    with pytest.raises(UserError, match=f"(?s){expected}"):
        tuner(splits, 2, search=search, class_weights="balanced").run()
    assert trained == []


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("accuracy", "MAXIMIZE"), ("balanced_accuracy", "MAXIMIZE"), ("loss", "MINIMIZE")],
)
def test_any_metric_of_validation_may_be_the_objective(splits: Splits, objective: str, direction: str) -> None:
    search = Search(batch_size=(32,), freeze_depth=IntRange(low=12, high=12))
    best, study = tuner(splits, 1, objective=objective, search=search).run()
    assert study.direction.name == direction
    assert best.value is not None
    assert list(study.trials[0].intermediate_values.values()) == [best.value]


def test_trials_that_mix_run_the_blocks_and_the_others_find_what_is_kept(
    splits: Splits, trained: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"freeze_depth": {"low": 12}, "mixup": {"low": 0.0, "high": 1.0}, "pooling": ["auto", "max"]}
    cache = Cache(Activations(engine="torch"), tmp_path / "cache")
    tuner(splits, 8, search=Search.model_validate(space), cache=cache).run()
    assert "images are mixed anew" not in capsys.readouterr().out
    assert trained[0]["config"].mixup == 0  # the first takes what the section says
    for call in trained:
        depth, pooling = call["net"].freeze_depth, call["net"].head.pool.kind
        without = call["config"].mixup > 0 or (depth == 13 and pooling == "max")  # which pools all blocks otherwise
        assert (call["behind"] is None) == without
    assert any(call["behind"] for call in trained)


def test_where_every_trial_mixes_what_the_probe_needs_alone_is_kept(
    splits: Splits, trained: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always, perhaps = (Search.model_validate({"cutmix": {"low": low, "high": 1.0}}) for low in (0.5, 0.0))
    for options in ({"mixup": 0.2}, {"search": always}, {"mixup": 0.2, "search": perhaps}):
        tuner(splits, 1, cache=Cache(Activations(engine="torch"), tmp_path / "cache"), **options).run()
    assert [call["behind"] for call in trained] == [None] * 3
    assert capsys.readouterr().out.count("mixup, cutmix: images are mixed anew") == 3
    kept = {path.parent.name for path in (tmp_path / "cache").glob("*/*/activations.npy")}
    assert kept == {"every_block", "depth_13"}  # of the probe alone


def test_an_optimiser_that_timm_lacks_is_refused_before_the_first_trial(splits: Splits) -> None:
    with pytest.raises(UserError, match=r"'timm/lionn' .*\n  did you mean 'timm/lion"):
        tuner(splits, 1, search=Search.model_validate({"optimizer": ["adamw", "timm/lionn"]}))


def test_a_searched_stochastic_depth_reaches_the_blocks_and_leaves_their_weights(
    splits: Splits, trained: list[dict[str, Any]]
) -> None:
    search = Search.model_validate(
        {"batch_size": [8], "freeze_depth": {"low": 1, "high": 5}, "stochastic_depth": {"low": 0.3, "high": 0.6}}
    )
    study = tuner(splits, 7, search=search, model=LITE)
    best, _ = study.run()
    rates = [call["net"].card.stochastic_depth for call in trained]
    drops = [max(part.drop_prob for part in call["net"].modules() if isinstance(part, DropPath)) for call in trained]
    assert drops == pytest.approx([rate * 15 / 16 for rate in rates])  # of timm's sixteen units, the first drops none
    assert len(set(rates)) > 2
    assert all(0.3 <= rate <= 0.6 for rate in rates)
    assert best.choices["stochastic_depth"] in rates
    for call in trained:
        for key, value in study.base.blocks.state_dict().items():
            assert torch.equal(call["net"].blocks.state_dict()[key], value)


def test_a_stochastic_depth_that_the_backbone_has_not_is_refused_before_any_trial(splits: Splits) -> None:
    search = Search.model_validate({"stochastic_depth": {"low": 0.1, "high": 0.2}})
    with pytest.raises(UserError, match=r"stochastic_depth: mobilenet_v3_small has no stochastic depth"):
        tuner(splits, 1, search=search)
