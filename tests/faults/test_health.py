"""A loss that is no number: one message with the step, the images and the rate, and nothing bad is kept."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from tests.conftest import ListRecorder
from transferline.artifacts import Arrays, ModelCard
from transferline.fitting import Finetune, Fit
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.model.stored import Entry, Stored
from transferline.sections import Activations, Model
from transferline.training import checkpoints, tune
from transferline.training.checkpoints import LAST, PREVIOUS
from transferline.training.data import Behind, Kept, Splits
from transferline.training.fit import fit
from transferline.training.health import NotFiniteError
from transferline.training.resume import Budget
from transferline.training.sampling import ViewBatches
from transferline.tuning import IntRange, Search, Start, Tune

pytestmark = pytest.mark.usefixtures("project")

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
Net = classifier.Classifier
WIDTH = 576


@pytest.fixture(scope="module")
def fresh() -> Net:
    return classifier.build(CARD, "none", seed=0)


@pytest.fixture(scope="module")
def splits(colour_arrays: Callable[..., Arrays]) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(colour_arrays(24), colour_arrays(9, seed=1), hashes)


def run(net: Net, splits: Splits, config: Fit | None = None, depth: int = 2, **options: Any) -> ListRecorder:
    copy, recorder = deepcopy(net), ListRecorder()
    copy.freeze(depth)
    settings: dict[str, Any] = {"lr": 3e-3, "batch_size": 8, "seed": 1, "recorder": recorder, "label": "finetune"}
    fit(copy, splits, config or Fit(epochs=2), **settings | options)
    return recorder


def stored(count: int, bad: tuple[int, ...] = ()) -> Stored:
    """What all blocks gave for that many images, of which some overflowed in float16."""
    values = np.random.default_rng(0).normal(size=(count, 1, WIDTH)).astype(np.float16)
    values[list(bad)] = np.inf
    return Stored(values, Entry(13, "float16", values.shape))


def test_a_rate_far_too_high_stops_with_step_rate_and_images(fresh: Net, splits: Splits, project: Path) -> None:
    with pytest.raises(NotFiniteError) as raised:
        run(fresh, splits, Fit(epochs=3, schedule="constant", optimizer="sgd"), lr=1e30)
    what, fix = raised.value.what, raised.value.fix
    assert what.startswith(
        "finetune: the loss is nan in epoch 1, step 2 (batch 2), at a learning rate of 1e+30; its images: "
    )
    named = what.split("its images: ")[1]
    assert named.endswith(" and 3 more")
    assert set(named.removesuffix(" and 3 more").split(", ")) <= set(splits.train.paths)
    for advice in ("lower learning rate", "finetune.gradient_clip", "look at these images"):
        assert advice in fix
    assert not list(project.rglob("*.ckpt"))


def test_the_one_image_that_gives_it_is_named(fresh: Net, splits: Splits) -> None:
    behind = Behind(Kept(stored(24, bad=(17,))), Kept(stored(9)))
    with pytest.raises(NotFiniteError, match=r"epoch 1, step \d .*; these alone give it: 17\.png\n") as raised:
        run(fresh, splits, depth=13, behind=behind)
    assert raised.value.args[0].count(".png") == 1


def test_a_validation_loss_likewise(fresh: Net, splits: Splits) -> None:
    behind = Behind(Kept(stored(24)), Kept(stored(9, bad=(2, 5))))
    expected = r"the validation loss is (nan|inf) after epoch 1; these alone give it: 2\.png, 5\.png"
    with pytest.raises(NotFiniteError, match=expected):
        run(fresh, splits, depth=13, behind=behind)


def test_an_epoch_without_a_finite_loss_is_not_recorded(fresh: Net, splits: Splits) -> None:
    recorder = ListRecorder()
    with pytest.raises(NotFiniteError):
        run(fresh, splits, depth=13, behind=Behind(Kept(stored(24)), Kept(stored(9, bad=(2,)))), recorder=recorder)
    assert recorder.metrics == []


def test_weights_that_are_not_finite_are_never_saved(
    fresh: Net, splits: Splits, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the last step of an epoch breaks a weight that validation does not use."""
    from transferline.training.health import Health

    def broken(self: Health, trainer: Any, module: Any) -> None:
        with torch.no_grad():
            module.net.head.linear.bias[0] = float("inf")

    monkeypatch.setattr(Health, "on_validation_end", broken)
    with pytest.raises(NotFiniteError, match=r"weights of net\.head\.linear\.bias are not finite after step 3"):
        run(fresh, splits, Fit(epochs=2, ema=0.9))
    assert not list(project.rglob("*.ckpt"))


def test_the_last_good_state_is_kept_and_its_folder_named(
    fresh: Net, splits: Splits, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch would be kept; the image in the last one of the first epoch spoils it."""
    monkeypatch.setattr(Budget, "due", lambda _: True)
    order = [draws.tolist() for draws, _ in ViewBatches(24, 1, 8, seed=1)]
    behind = Behind(Kept(stored(24, bad=(order[2][0],))), Kept(stored(9)))
    with pytest.raises(NotFiniteError, match=r"the last good state is kept in .*resume"):
        run(fresh, splits, depth=13, behind=behind, resume=project / "resume")
    for name in (LAST, PREVIOUS):
        state = checkpoints.read(project / "resume" / name)
        assert all(torch.isfinite(weight).all() for weight in state["state_dict"].values())
    with pytest.raises(NotFiniteError, match="step 3"):  # what was kept is where it goes on
        run(fresh, splits, depth=13, behind=behind, resume=project / "resume")


def test_in_tune_the_trial_is_pruned_with_that_reason(
    fresh: Net, splits: Splits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = ListRecorder()
    search = Search(batch_size=(8,), freeze_depth=IntRange(low=12, high=13))
    config = Tune(trials=3, search=search, start=Start(batch_size=8, freeze_depth=13), pruner="none")
    model, cache = Model(backbone="mobilenet_v3_small", weights="none"), Cache(Activations(mode="off"))
    given: dict[str, Any] = {"cache": cache, "recorder": recorder, "seed": 3, "data_key": "key"}
    tuner = tune.Tuner(splits, model, config, Finetune(epochs=1), **given)
    tuner.probe()
    made = tune.Tuner._classifier

    def second_is_broken(self: tune.Tuner, values: dict[str, Any]) -> Net:
        net = made(self, values)
        if len(recorder.children) == 3:  # the probe's, and those of two trials
            torch.nn.init.constant_(net.head.linear.weight, float("nan"))
        return net

    monkeypatch.setattr(tune.Tuner, "_classifier", second_is_broken)
    best, study = tuner.run()
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    reason = recorder.children[2][2].tags["pruned_because"]
    assert "the loss is nan in epoch 1, step 1" in reason
    assert f"tune: trial 2 is left out: {reason}" in capsys.readouterr().out
    assert best.value is not None
    assert isinstance(study, optuna.Study)
