"""One study, many processes, some of them killed: as many trials as wanted, none twice, none lost."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from tests.conftest import ListRecorder, coloured
from tests.faults.workers import PATIENCE, forked, started, until
from transferline import errors
from transferline.artifacts import Option, Probed
from transferline.errors import UserError
from transferline.fitting import Finetune
from transferline.model.activations import Cache
from transferline.sections import Activations, Model
from transferline.training import tune
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.training.study import AGAIN, FINISHED, OWNER, Shared
from transferline.tuning import FloatRange, IntRange, Search, Start, Tune

pytestmark = pytest.mark.usefixtures("project")

SPACE = Search(lr=FloatRange(low=3e-4, high=5e-3, log=True), batch_size=(8, 16), freeze_depth=IntRange(low=2, high=13))
_OPTION = Option("last", 0.1, 0.9, 0.6, [0.5, 0.7])
PROBED = Probed("last", [], 0.1, [_OPTION], [_OPTION] * 13, [_OPTION] * 13, depth=6)
FIRST = {"lr": 1e-3, "batch_size": 8, "freeze_depth": 3}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return made()


def made() -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(coloured(24), coloured(9, seed=1), hashes)


def config(trials: int) -> Tune:
    return Tune(trials=trials, search=SPACE, start=Start.model_validate(FIRST), objective="loss")


def drawn(trial: optuna.Trial, _: object = None) -> dict[str, Any]:
    lr = trial.suggest_float("lr", 3e-4, 5e-3, log=True)
    return {"lr": lr, "batch_size": trial.suggest_categorical("batch_size", [8, 16])}


def shared(folder: Path, trials: int, sample: Callable[..., dict[str, Any]] = drawn) -> Shared:
    first = [{"lr": 1e-3, "batch_size": 8}]

    def more(begun: list[Any]) -> bool:
        return len(begun) < trials

    return Shared(folder, "study", config(trials), seed=7, first=first, sample=sample, more=more)


def score(values: dict[str, Any]) -> float:
    return float(abs(np.log(values["lr"] / 2e-3))) + values["batch_size"] / 100


def finish_all(folder: Path, trials: int, most: int = 1000) -> list[float]:
    """Try up to `most` trials, then leave; the rates that were finished by now."""
    with shared(folder, trials) as study:
        while most and (claimed := study.claim()):
            study.finish(claimed[0], score(claimed[1]))
            most -= 1
        return [trial.params["lr"] for trial in study.study.trials if trial.state in FINISHED]


# Whole workers.


def work(splits: Splits, trials: int, calls: Path, victim: bool) -> None:
    """A worker whose training takes a moment and learns nothing; that of a victim does not end."""

    def pretend(*_: Any, **options: Any) -> History:
        calls.joinpath(f"{os.getpid()}-{time.monotonic_ns()}").write_text(repr(options["lr"]))
        if victim:
            Path("victim").touch()
            time.sleep(PATIENCE)
        time.sleep(0.1)
        value = abs(float(np.log(options["lr"] / 2e-3)))
        return History([{"val_macro_f1": -value, "val_loss": value}])

    tune.adapt = pretend
    errors.run(lambda: run(splits, trials))


def train() -> None:
    """A worker that trains for real, for long."""
    errors.run(lambda: run(made(), 3, epochs=100))


def run(splits: Splits, trials: int, epochs: int = 1) -> None:
    """What pipeline/tune.py does."""
    best, _ = tuner(splits, trials, epochs).run()
    Path(f"best-{os.getpid()}").write_text(json.dumps([best.lr, best.batch_size, best.freeze_depth, best.value]))


def tuner(splits: Splits, trials: int, epochs: int = 1) -> tune.Tuner:
    model = Model(backbone="mobilenet_v3_small", weights="none")
    given: dict[str, Any] = {"cache": Cache(Activations(mode="off")), "recorder": ListRecorder()}
    made = tune.Tuner(splits, model, config(trials), Finetune(epochs=epochs), seed=3, data_key="key", **given)
    tune.probe = lambda *_: PROBED
    made.probe()
    return made


def opened(tuner: tune.Tuner) -> optuna.Study:
    """Its study as another process finds it."""
    rest: dict[str, Any] = {"first": tuner._first(), "sample": tuner._sample, "more": tuner._more}
    return Shared(tuner.folder, tuner.name, tuner.config, seed=3, **rest).open()


def test_four_workers_one_of_them_killed_finish_exactly_the_trials_wanted(splits: Splits, project: Path) -> None:
    calls = project / "calls"
    calls.mkdir()
    victim = forked(work, splits, 9, calls, True)
    until((project / "victim").exists)
    others = [forked(work, splits, 9, calls, False) for _ in range(3)]
    until(lambda: len(list(calls.iterdir())) >= 6)
    victim.kill()
    for worker in others:
        worker.join(PATIENCE)
        assert worker.exitcode == 0
    study = opened(tuner(splits, 9))
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL), len(states)) == (9, 1, 10)
    (killed,) = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    (again,) = [trial for trial in study.trials if AGAIN in trial.user_attrs]
    assert again.user_attrs[AGAIN] == killed.number
    assert again.params == killed.params
    values = {(trial.params["lr"], trial.params["freeze_depth"]) for trial in study.trials}
    assert len(values) == 9  # the killed one and its successor share theirs
    first = [trial.params["freeze_depth"] for trial in study.trials if trial.params["lr"] in (1e-3, SPACE.lr.low)]
    assert sorted(set(first)) == [3, 4, 7, 12, 13]  # the first ones, at the rate of `start`, or the lowest
    bests = {path.read_text() for path in project.glob("best-*")}
    assert len(list(project.glob("best-*"))) == 3
    assert len(bests) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_the_trial_failed_and_queued_at_once(
    splits: Splits, project: Path, signum: signal.Signals, code: int
) -> None:
    """In the middle of a real training; past its first epochs, in which it imports what it needs.

    Python drops what a handler raises in the middle of an import.
    """
    worker = started("from tests.faults.test_study import train; train()")
    reported = '"intermediate_value":'
    until(lambda: any(path.read_text().count(reported) > 5 for path in project.glob(".cache/tune/*.journal")))
    worker.send_signal(signum)
    assert worker.wait(PATIENCE) == code
    states = [(trial.state, trial.user_attrs.get(AGAIN)) for trial in opened(tuner(splits, 3, 100)).trials]
    assert states == [(TrialState.FAIL, None), *[(TrialState.WAITING, None)] * 2, (TrialState.WAITING, 0)]


# Who owns a trial.


def test_a_trial_of_a_living_worker_is_left_alone_and_that_of_a_dead_one_taken_over_once(tmp_path: Path) -> None:
    with shared(tmp_path, 3) as second:
        with shared(tmp_path, 3) as first:
            one, two = first.claim(), second.claim()
            assert one
            assert two
            assert one[0].number != two[0].number
        with shared(tmp_path, 3) as third:
            successor = third.claim()
            assert successor
            assert successor[1] == one[1]
            another = second.claim()
            assert another
            assert another[1] not in (one[1], two[1])
            states = [trial.state for trial in second.study.trials]
            assert states == [TrialState.FAIL, *[TrialState.RUNNING] * 3]


def test_killed_between_queueing_again_and_marking_as_failed_a_trial_is_queued_once(tmp_path: Path) -> None:
    with shared(tmp_path, 2) as first:
        claimed = first.claim()
        assert claimed
        first.study.enqueue_trial(claimed[1], user_attrs={AGAIN: claimed[0].number})
    with shared(tmp_path, 2) as second:
        successor = second.claim()
        assert successor
        assert successor[1] == claimed[1]
        assert [trial.state for trial in second.study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_who_waits_says_for_whom(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with shared(tmp_path, 1) as first:
        claimed = first.claim()
        assert claimed
        waiting = forked(finish_all, tmp_path, 1)
        time.sleep(1.0)
        assert waiting.is_alive()
        first.finish(claimed[0], 1.0)
        waiting.join(PATIENCE)
        assert waiting.exitcode == 0
        assert len(first.study.trials) == 1
        assert capfd.readouterr().out.count(f"tune: waiting for trial 1 (process {os.getpid()} on ") == 1


def hang(folder: Path, trials: int, flag: Path) -> None:
    with shared(folder, trials) as study:
        study.claim()
        flag.touch()
        time.sleep(PATIENCE)


@pytest.mark.parametrize("kills", [(0,), (1, 4), (0, 1, 2, 3, 6, 7)])
def test_a_study_that_was_killed_draws_what_it_would_have_drawn(tmp_path: Path, kills: tuple[int, ...]) -> None:
    undisturbed = finish_all(tmp_path / "undisturbed", 10)
    assert len(set(undisturbed)) == 10
    folder = tmp_path / "killed"
    for done in kills:
        assert len(finish_all(folder, 10, most=done - len(finish_all(folder, 10, most=0)))) == done
        flag = tmp_path / f"claimed-{done}"
        worker = forked(hang, folder, 10, flag)
        until(flag.exists)
        worker.kill()
        worker.join()
    assert finish_all(folder, 10) == undisturbed


def test_undisturbed_it_draws_what_optuna_draws(tmp_path: Path) -> None:
    sampler = optuna.samplers.TPESampler(seed=7, n_startup_trials=5)
    plain = optuna.create_study(sampler=sampler)
    plain.enqueue_trial({"lr": 1e-3, "batch_size": 8})
    plain.optimize(lambda trial: score(drawn(trial)), n_trials=10)
    assert finish_all(tmp_path, 10) == [trial.params["lr"] for trial in plain.trials]


@pytest.mark.parametrize("drawings", [0, 1, 2])
def test_killed_while_drawing_a_trial_is_drawn_again(tmp_path: Path, drawings: int) -> None:
    undisturbed = finish_all(tmp_path / "undisturbed", 8)
    folder = tmp_path / "killed"
    finish_all(folder, 8, most=5)

    def killed(trial: optuna.Trial, _: object) -> dict[str, Any]:
        for _ in range(drawings):
            trial.suggest_float("lr", 3e-4, 5e-3, log=True)
        raise SystemExit(137)

    with pytest.raises(SystemExit), shared(folder, 8, killed) as study:
        study.claim()
    assert finish_all(folder, 8) == undisturbed


def test_what_fails_by_a_fault_of_ours_is_queued_once_only(tmp_path: Path) -> None:
    with shared(tmp_path, 2) as study:
        for _ in (1, 2):
            claimed = study.claim()
            assert claimed
            assert claimed[1]["lr"] == 1e-3
            study.give_back(claimed[0], ZeroDivisionError())
        claimed = study.claim()
        assert claimed
        assert claimed[1]["lr"] != 1e-3


# The journal.


def test_a_half_written_last_line_is_cut_off_wherever_it_broke(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finish_all(tmp_path / "whole", 4)
    content = (tmp_path / "whole" / "study.journal").read_bytes()
    starts = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    last, length = starts[-2], starts[-1] - starts[-2]
    rng = np.random.default_rng(0)
    for number, cut in enumerate([last + 1, starts[-1] - 1, *(last + rng.integers(1, length, 6)).tolist()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "study.journal").write_bytes(content[:cut])
        capsys.readouterr()
        assert finish_all(folder, 4) == whole
        assert "half-written" in capsys.readouterr().out


def test_zeros_after_a_loss_of_power_are_cut_off(tmp_path: Path) -> None:
    whole = finish_all(tmp_path, 3)
    with (tmp_path / "study.journal").open("ab") as stream:
        stream.write(bytes(4096))
    assert finish_all(tmp_path, 4)[:3] == whole


def test_a_line_broken_by_a_process_that_died_does_not_disturb_those_that_live(tmp_path: Path) -> None:
    with shared(tmp_path, 3) as living:
        claimed = living.claim()
        with (tmp_path / "study.journal").open("ab") as stream:
            stream.write(b'{"op_code":8,"wor')
        assert claimed
        living.finish(claimed[0], 1.0)
        assert living.done == 1
    assert len(finish_all(tmp_path, 3)) == 3


def test_a_journal_broken_further_up_is_one_message(tmp_path: Path) -> None:
    finish_all(tmp_path, 2)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"?" + lines[3], *lines[4:]]))
    with pytest.raises(UserError, match=r"study\.journal, line 4, is corrupt.*\n.*delete the file.*first 3 lines"):
        finish_all(tmp_path, 2)
    journal.write_bytes(b"".join(lines[:3]))
    assert len(finish_all(tmp_path, 2)) == 2


def test_a_lock_that_a_dead_process_left_holds_up_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish_all(tmp_path, 1)
    content = (tmp_path / "study.journal").read_bytes()
    (tmp_path / "study.journal.lock").symlink_to(tmp_path / "study.journal")
    began = time.monotonic()
    assert len(finish_all(tmp_path, 2)) == 2
    assert time.monotonic() - began < 25  # Optuna would wait for 30 seconds
    assert "study.journal.lock was left by a process that is gone" in capsys.readouterr().out
    assert (tmp_path / "study.journal").read_bytes().startswith(content)


def test_each_trial_says_whose_it_is(tmp_path: Path) -> None:
    with shared(tmp_path, 1) as study:
        study.claim()
        owner = study.study.trials[0].user_attrs[OWNER]
        assert (owner["pid"], owner["worker"]) == (os.getpid(), study.id)
