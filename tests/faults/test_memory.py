"""Memory that does not suffice: half as many images at once, the same steps, the same weights."""

import resource
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn

from tests.conftest import ListRecorder, coloured
from tests.faults.workers import PATIENCE, started
from tests.unit.training.exact import CLOSE, METRIC, exactly
from transferline.artifacts import Arrays, ModelCard
from transferline.errors import UserError
from transferline.fitting import Finetune, Fit
from transferline.model import classifier, engines, memory
from transferline.model.activations import Cache
from transferline.sections import Activations, Model
from transferline.training import tune
from transferline.training.data import Physical, Splits
from transferline.training.fit import History, Recorder, fit
from transferline.training.resume import Budget
from transferline.training.sampling import ViewBatches
from transferline.training.shrink import within_memory
from transferline.tuning import IntRange, Search, Start, Tune

pytestmark = pytest.mark.usefixtures("project")

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
REFUSALS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 1.2 GiB for an array"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("could not create a primitive"),
    RuntimeError("posix_memalign failed:Cannot allocate memory (12)"),
]
Net = classifier.Classifier


class Narrow(nn.Module):
    """A block through which only so many images pass at once; `most` in training, `val` in eval mode.

    The first `wide` passes in training are spared.
    """

    def __init__(
        self, block: nn.Module, most: int, val: int = 1000, error: Exception = REFUSALS[0], wide: int = 0
    ) -> None:
        super().__init__()
        self.block, self.most, self.val, self.error, self.wide = block, most, val, error, wide

    def forward(self, features: Tensor) -> Tensor:
        training = torch.is_grad_enabled()
        self.wide -= training
        if len(features) > (self.most if training else self.val) and not (training and self.wide >= 0):
            raise self.error
        passed: Tensor = self.block(features)
        return passed


class Fresh(ListRecorder):
    """A run that no earlier process has logged to."""

    def steps(self) -> set[int]:
        return set()


@pytest.fixture(scope="module")
def fresh() -> Net:
    """In double precision, as all that `trained` trains."""
    return classifier.build(CARD, "none", seed=0).double()


@pytest.fixture(scope="module")
def calm(fresh: Net, splits: Splits) -> Net:
    """Without dropout, and with statistics in its BatchNorm that may stay: no image depends on the others."""
    net = deepcopy(fresh).train()
    net.head.set_dropout(0.0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    for _ in range(10):
        net(torch.from_numpy(splits.train.images[:, 0]).permute(0, 3, 1, 2).float())
    return net


@pytest.fixture(scope="module")
def splits(colour_arrays: Callable[..., Arrays]) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(colour_arrays(48, views=2), colour_arrays(15, seed=1), hashes)


def trained(
    net: Net, splits: Splits, config: Fit, *, narrow: dict[str, Any] | None = None, **options: Any
) -> tuple[dict[str, Tensor], ListRecorder, History]:
    copy, recorder = deepcopy(net), Fresh()
    copy.freeze(2)
    if narrow:
        copy.blocks[4] = Narrow(copy.blocks[4], **narrow)
    batch_size, resume = options.pop("batch_size", 16), options.pop("resume", None)
    given: dict[str, Any] = {"lr": 3e-3, "seed": 1, "label": "finetune", "batch_size": batch_size}

    def attempt(physical: Physical, phase: Any, once: Recorder) -> History:
        physically: dict[str, Any] = {"physical": physical, "callbacks": [phase], "recorder": once, "resume": resume}
        return fit(copy, splits, exactly(config), **physically | given | options)

    history = within_memory(
        attempt, copy, config, batch_size=batch_size, recorder=recorder, label="finetune", resume=resume
    )
    if narrow:
        copy.blocks[4] = copy.blocks[4].get_submodule("block")
    return copy.state_dict(), recorder, history


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


@pytest.mark.parametrize("error", REFUSALS)
def test_whoever_refuses_memory_is_understood(error: Exception) -> None:
    assert memory.ran_out(error)
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("error", [REFUSALS[0], REFUSALS[1]])
def test_what_does_not_fit_is_halved_to_the_same_weights_as_accumulating_by_hand(
    fresh: Net, splits: Splits, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand, _, expected = trained(fresh, splits, Fit(epochs=2, accumulate=4), batch_size=4)
    weights, recorder, history = trained(fresh, splits, Fit(epochs=2), narrow={"most": 4, "error": error})
    assert same(weights, by_hand)
    assert [row["lr"] for row in history.epochs] == [row["lr"] for row in expected.epochs]
    assert recorder.tags == {"batch_size.physical.train": "4", "batch_size.physical.val": "16"}
    assert [step for step, _ in recorder.metrics] == [0, 1]
    lines = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert len(lines) == 2
    assert "4 images at once (validation: 16), the gradients of 4 such batches make a step" in lines[1]


def test_without_what_depends_on_the_batch_the_weights_are_those_of_the_whole_batch(calm: Net, splits: Splits) -> None:
    config = Fit(epochs=2, batchnorm="frozen", optimizer="sgd", accumulate=2)
    whole, _, _ = trained(calm, splits, config, batch_size=20, lr=0.004)
    halved, _, _ = trained(calm, splits, config, batch_size=20, lr=0.004, narrow={"most": 3})
    for name, value in whole.items():
        torch.testing.assert_close(halved[name], value, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(("batch_size", "most"), [(16, 8), (16, 4), (10, 3), (10, 2), (7, 2), (16, 1), (64, 5)])
@pytest.mark.parametrize("images", [16, 33, 34, 47, 50])
def test_parts_are_the_same_images_in_the_same_steps(images: int, batch_size: int, most: int) -> None:
    whole, split = ViewBatches(images, 3, batch_size, 1), ViewBatches(images, 3, batch_size, 1, most=most)
    batches, pieces = list(whole), list(split)
    assert len(split) == len(pieces)
    for number, (draws, views) in enumerate(batches):
        mine = pieces[number * split.parts : (number + 1) * split.parts]
        seen = {pair for rows, seen in mine for pair in zip(rows.tolist(), seen.tolist(), strict=True)}
        assert seen == set(zip(draws.tolist(), views.tolist(), strict=True))
        assert sum(len(rows) for rows, _ in mine) == len(draws) == split.images_in_step(number * split.parts, 1)
    assert max(len(rows) for rows, _ in pieces) <= most + (most == 2)
    assert most == 1 or min(len(rows) for rows, _ in pieces) > 1


def test_validation_alone_shrinks_where_it_was_validation(fresh: Net, splits: Splits) -> None:
    plain, _, expected = trained(fresh, splits, Fit(epochs=2))
    weights, recorder, history = trained(fresh, splits, Fit(epochs=2), narrow={"most": 16, "val": 8})
    assert recorder.tags == {"batch_size.physical.train": "16", "batch_size.physical.val": "8"}
    assert same(weights, plain)
    assert history.best["val_loss"] == pytest.approx(expected.best["val_loss"], rel=METRIC)


def test_what_was_found_to_fit_is_remembered(fresh: Net, splits: Splits, project: Path) -> None:
    folder = project / "resume"
    folder.mkdir()
    first, _, _ = trained(fresh, splits, Fit(epochs=1), narrow={"most": 8}, resume=folder)
    again, recorder, _ = trained(fresh, splits, Fit(epochs=1), narrow={"most": 8}, resume=folder)
    assert same(first, again)
    assert recorder.tags == {}  # nothing was run into


@pytest.mark.parametrize(
    ("batch_size", "passes", "place"), [(12, 2, "1, batch 4 of 8"), (20, 7, "3, batch 4 of 10"), (12, 4, "1")]
)
def test_it_goes_on_from_the_last_kept_state(
    calm: Net,
    splits: Splits,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    batch_size: int,
    passes: int,
    place: str,
) -> None:
    """In the middle of an epoch, too: what was kept with whole batches is taken up with parts of them."""
    monkeypatch.setattr(Budget, "due", lambda _: True)
    config = Fit(epochs=3, batchnorm="frozen", optimizer="sgd", gradient_clip=None)
    (project / "resume").mkdir()
    whole, _, expected = trained(calm, splits, config, batch_size=batch_size, lr=0.008)
    assert expected.epochs[-1]["val_loss"] < expected.epochs[0]["val_loss"] - 0.02
    narrow = {"most": 5, "wide": passes}
    weights, recorder, history = trained(
        calm, splits, config, batch_size=batch_size, narrow=narrow, resume=project / "resume", lr=0.008
    )
    assert f"finetune: goes on after epoch {place} (resumed)" in capsys.readouterr().out
    assert [step for step, _ in recorder.metrics] == [0, 1, 2]
    for row, other in zip(history.epochs, expected.epochs, strict=True):
        assert row == pytest.approx(other, rel=METRIC)
    for name, value in whole.items():
        torch.testing.assert_close(weights[name], value, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(("batchnorm", "least"), [("train", 2), ("frozen", 1)])
def test_at_the_smallest_batch_it_is_one_message(fresh: Net, splits: Splits, batchnorm: Any, least: int) -> None:
    with pytest.raises(
        UserError, match=rf"finetune: out of memory \(CUDA out of memory.*\) with a batch of {least}.*\n.*freeze_depth"
    ):
        trained(fresh, splits, Fit(epochs=1, batchnorm=batchnorm), narrow={"most": 0}, batch_size=8)


def test_any_other_error_stays_what_it_is(fresh: Net, splits: Splits) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        trained(fresh, splits, Fit(epochs=1), narrow={"most": 4, "error": RuntimeError("shapes differ")})


def test_in_tune_the_trial_is_pruned_with_that_reason(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = ListRecorder()
    search = Search(batch_size=(3, 6), freeze_depth=IntRange(low=12, high=13))
    config = Tune(trials=4, search=search, start=Start(batch_size=6, freeze_depth=12), pruner="none")
    model, cache = Model(backbone="mobilenet_v3_small", weights="none"), Cache(Activations(mode="off"))
    given: dict[str, Any] = {"cache": cache, "recorder": recorder, "seed": 3, "data_key": "key"}
    tuner = tune.Tuner(splits, model, config, Finetune(epochs=1), **given)
    tuner.probe()
    made = tune.Tuner._classifier

    def narrow(self: tune.Tuner, values: dict[str, Any]) -> Net:
        net = made(self, values)
        net.blocks[12] = Narrow(net.blocks[12], 3)
        net.freeze(12)
        return net

    monkeypatch.setattr(tune.Tuner, "_classifier", narrow)
    best, study = tuner.run()
    large = [trial.params["batch_size"] == 6 for trial in study.trials]
    assert [trial.state == TrialState.PRUNED for trial in study.trials] == large
    assert best.batch_size == 3
    assert recorder.children[1][2].tags == {"pruned_because": "a batch of 6 does not fit into memory"}


def test_predictions_do_not_depend_on_what_fits(fresh: Net, splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    images = splits.val.images[:, 0]
    whole = classifier.predict_logits(fresh, images, 15)
    narrow = deepcopy(fresh)
    narrow.blocks[4] = Narrow(narrow.blocks[4], 1000, val=3)
    np.testing.assert_allclose(classifier.predict_logits(narrow, images, 15), whole, rtol=CLOSE, atol=CLOSE)
    said = [line for line in capsys.readouterr().out.splitlines() if "does not fit" in line]
    assert said == [
        "predicting: a batch of 15 does not fit into memory: 7 from here on",
        "predicting: a batch of 5 does not fit into memory: 2 from here on",
    ]
    narrow.blocks[4] = Narrow(fresh.blocks[4], 1000, val=0)
    with pytest.raises(UserError, match="one image alone does not fit"):
        classifier.predict_logits(narrow, images, 15)


def test_frozen_blocks_neither(fresh: Net, splits: Splits) -> None:
    images = splits.val.images[:, 0]
    narrow = deepcopy(fresh)
    narrow.blocks[2] = Narrow(narrow.blocks[2], 1000, val=4)
    prefixes = [engines.in_torch(engines.Prefix(net, [1, 4])) for net in (fresh, narrow)]
    for whole, halved in zip(*(run(images) for run in prefixes), strict=True):
        np.testing.assert_allclose(halved, whole, rtol=2**-23)  # computed in double precision, given in float32


def starved(spare: int) -> None:
    """Train in a process that may take so many bytes more than it has."""
    large = Splits(coloured(128, side=96), coloured(9, side=96, seed=1))
    net = classifier.build(ModelCard(**{**CARD.__dict__, "input_size": 96}), "none", seed=0)
    torch.backends.mkldnn.enabled = False  # its code, made anew for each shape, finds no room in what the heap has left
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _, recorder, history = trained(net, large, Fit(epochs=1), batch_size=128)
    assert len(history.epochs) == 1
    Path("fitted").write_text(recorder.tags["batch_size.physical.train"])


def test_a_process_that_really_runs_out_of_memory_goes_on(project: Path) -> None:
    assert started("from tests.faults.test_memory import starved; starved(80 << 20)").wait(PATIENCE) == 0
    assert 2 <= int((project / "fitted").read_text()) < 128
