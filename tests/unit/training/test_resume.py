"""What a training's state is kept in, and when."""

import os
import pickle
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from tests.conftest import ListRecorder
from transferline.artifacts import ModelCard
from transferline.fitting import OPTIMIZERS, Finetune
from transferline.model import classifier
from transferline.training import checkpoints, resume
from transferline.training.checkpoints import LAST, PREVIOUS, DamagedError
from transferline.training.data import Splits
from transferline.training.fit import History, fit
from transferline.training.sampling import ViewBatches

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)


class Stop(Callback):
    """Ends the training before a batch, counted from 0 over all epochs, as nothing that the training foresees."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        if self.left == 0:
            raise OSError("stopped")
        self.left -= 1


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(resume.time, "monotonic", lambda: self.now)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume.Budget, "due", lambda _: True)


def train(splits: Splits, config: Finetune, stop: int = -1, **options: Any) -> tuple[dict[str, Any], History]:
    net = classifier.build(CARD, "none", seed=0)
    net.freeze(12)
    splits = splits._replace(joined=options.pop("joined", False))
    settings: dict[str, Any] = {"lr": 1e-3, "batch_size": 24, "seed": 1, "recorder": ListRecorder(), "label": "test"}
    history = fit(net, splits, config, callbacks=[Stop(stop)], **settings | options)
    return net.state_dict(), history


def resumed(splits: Splits, config: Finetune, folder: Path, stop: int = 1, **options: Any) -> Any:
    with pytest.raises(OSError, match="stopped"):
        train(splits, config, stop, resume=folder, **options)
    return train(splits, config, resume=folder, **options)


def assert_same(one: tuple[dict[str, Any], History], other: tuple[dict[str, Any], History]) -> None:
    assert one[1] == other[1]
    assert all(torch.equal(one[0][key], other[0][key]) for key in one[0])


def test_a_file_is_read_back_and_the_last_becomes_the_previous(tmp_path: Path) -> None:
    for number in range(3):
        checkpoints.write({"number": number, "tensor": torch.arange(number)}, tmp_path / LAST)
    assert [checkpoints.read(tmp_path / name)["number"] for name in (LAST, PREVIOUS)] == [2, 1]
    assert torch.equal(checkpoints.read(tmp_path / LAST)["tensor"], torch.arange(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


@pytest.mark.parametrize("place", [0, 100, -40, -1])
def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path, place: int) -> None:
    checkpoints.write({"tensor": torch.zeros(100)}, tmp_path / LAST)
    data = bytearray((tmp_path / LAST).read_bytes())
    data[place] ^= 4
    (tmp_path / LAST).write_bytes(data)
    with pytest.raises(DamagedError, match=r"last\.ckpt is damaged"):
        checkpoints.read(tmp_path / LAST)


@pytest.mark.parametrize("length", [0, 10, 32, 500])
def test_a_truncated_file_is_seen(tmp_path: Path, length: int) -> None:
    checkpoints.write({"tensor": torch.zeros(100)}, tmp_path / LAST)
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:length])
    with pytest.raises(DamagedError):
        checkpoints.read(tmp_path / LAST)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("run",)


def test_nothing_in_a_file_is_run(tmp_path: Path, project: Path) -> None:
    checkpoints.write({"evil": Evil()}, tmp_path / LAST)
    with pytest.raises(DamagedError, match="cannot be read"):
        checkpoints.read(tmp_path / LAST)
    assert not (project / "run").exists()
    assert pickle.loads(pickle.dumps(Evil())) is None  # noqa: S301 - the proof that it would have been run
    assert (project / "run").exists()


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.write({"number": 1}, tmp_path / LAST)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._Hashing, "write", full)
    with pytest.raises((OSError, ValueError), match=r"No space|the disk is full"):
        checkpoints.write({"number": torch.zeros(100_000)}, tmp_path / LAST)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert checkpoints.read(tmp_path / LAST) == {"number": 1}


def test_every_generator_goes_on_from_where_it_was(tmp_path: Path) -> None:
    np.random.standard_normal()  # keeps a second draw for the next call, as does the other one
    random.gauss(0, 1)
    checkpoints.write(checkpoints.generators(), tmp_path / LAST)

    def drawn() -> list[float]:
        return [random.gauss(0, 1), np.random.standard_normal(), np.random.random(), float(torch.rand(1))]

    first = drawn()
    drawn()
    checkpoints.set_generators(checkpoints.read(tmp_path / LAST))
    assert drawn() == first


def test_saving_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = resume.Budget(expected=0.5)
    saves, spent = [], 0.0
    for second in range(1_000):
        clock.now = float(second)
        if budget.due():
            saves.append(second)
            spent += 2.0
            budget.paid(2.0)
    assert saves == [50, 400, 600, 800]
    assert spent <= 0.01 * 1_000


def test_a_pass_starts_at_a_batch_once() -> None:
    batches = ViewBatches(10, 2, 3, seed=1)
    whole = [draws.tolist() for draws, _ in batches]
    batches.first = 2
    assert [draws.tolist() for draws, _ in batches] == whole[2:]
    assert [draws.tolist() for draws, _ in batches] == whole
    assert len(batches) == len(whole)


SCHEDULES = ("cosine", "step", "plateau", "constant")
CHOICES = [*({"optimizer": name} for name in (*OPTIMIZERS, "timm/lion")), *({"schedule": name} for name in SCHEDULES)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: next(iter(choice.values())))
def test_every_optimiser_and_schedule_is_taken_up(splits: Splits, tmp_path: Path, choice: dict[str, Any]) -> None:
    config = Finetune(epochs=2, accelerator="cpu", **choice)
    whole = train(splits, config)
    assert_same(resumed(splits, config, tmp_path / "resume", stop=3), whole)


@pytest.mark.usefixtures("always")
def test_a_progress_bar_takes_it(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Finetune(epochs=2, accelerator="cpu")
    whole = train(splits, config)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("rich._console", None)  # Lightning makes it over for a terminal, which later tests have not
    assert_same(resumed(splits, config, tmp_path / "resume", stop=2), whole)


@pytest.mark.usefixtures("always")
def test_a_project_may_be_moved(splits: Splits, tmp_path: Path) -> None:
    config = Finetune(epochs=2, accelerator="cpu", schedule="constant", monitor="train_loss")
    whole = train(splits, config)
    with pytest.raises(OSError, match="stopped"):
        train(splits, config, 3, resume=tmp_path / "here")
    assert (tmp_path / "here" / "best-epoch=0.ckpt").exists()
    (tmp_path / "here").rename(tmp_path / "there")
    assert_same(train(splits, config, resume=tmp_path / "there"), whole)
    assert not (tmp_path / "here").exists()


@pytest.mark.usefixtures("always")
def test_best_weights_stay_as_long_as_a_state_counts_on_them(splits: Splits, tmp_path: Path) -> None:
    config = Finetune(epochs=4, accelerator="cpu", monitor="train_loss", schedule="constant")
    with pytest.raises(OSError, match="stopped"):
        train(splits, config, 5, resume=tmp_path, lr=1e-2)
    states = [checkpoints.read(tmp_path / name)["resume"]["best"] for name in (LAST, PREVIOUS)]
    assert states == ["best-epoch=1.ckpt", "best-epoch=0.ckpt"]
    assert {path.name for path in tmp_path.iterdir()} == {LAST, PREVIOUS, *states}
    train(splits, config, resume=tmp_path, lr=1e-2)
    assert len(list(tmp_path.glob("best*"))) <= 2


@pytest.mark.usefixtures("always")
def test_the_best_weights_are_checked_too(splits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Finetune(epochs=2, accelerator="cpu")
    whole = train(splits, config, resume=tmp_path)
    best = next(tmp_path.glob("best*"))
    best.write_bytes(best.read_bytes()[:-1])
    capsys.readouterr()
    assert_same(train(splits, config, resume=tmp_path), whole)
    printed = capsys.readouterr().out
    assert printed.count(f"test: {best} is damaged, so it is not used\n") == 1
    assert "resumed" not in printed


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("other", [{"lr": 2e-3}, {"seed": 2}, {"batch_size": 16}, {"joined": True}])
def test_a_state_of_another_training_is_left_alone(splits: Splits, tmp_path: Path, other: dict[str, Any]) -> None:
    config = Finetune(epochs=1, accelerator="cpu")
    with pytest.raises(OSError, match="stopped"):
        train(splits, config, 1, resume=tmp_path)
    kept = (tmp_path / LAST).read_bytes() if (tmp_path / LAST).exists() else b""
    with pytest.raises(OSError, match="stopped"):
        train(splits, config, 0, resume=tmp_path, **other)
    assert kept == ((tmp_path / LAST).read_bytes() if kept else b"")
    assert_same(train(splits, config, resume=tmp_path, **other), train(splits, config, **other))


def test_without_a_folder_nothing_is_kept_and_no_signal_handled(splits: Splits, project: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(splits, Finetune(epochs=1, accelerator="cpu"))
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [path for path in project.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("always")
def test_handlers_are_put_back_and_other_threads_have_none(splits: Splits, tmp_path: Path) -> None:
    def handler(*_: object) -> None: ...

    config, before = Finetune(epochs=1, accelerator="cpu"), signal.signal(signal.SIGTERM, handler)
    try:
        train(splits, config, resume=tmp_path / "main")
        assert signal.getsignal(signal.SIGTERM) is handler
        thread = threading.Thread(target=train, args=(splits, config), kwargs={"resume": tmp_path / "thread"})
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "thread" / LAST).exists()
