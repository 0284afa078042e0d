"""A study that any number of processes work on at once, and that outlives each of them."""

import base64
import os
import platform
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from transferline.errors import UserError
from transferline.training.journal import Journal
from transferline.training.scores import MONITORS
from transferline.tuning import Tune

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
OWNER = "owner"  # of a trial: worker, host, pid, and what the sampler's generators were left at; in one line
AGAIN = "again"  # the number of the trial whose values this one tries again
REASON = "reason"  # why a trial was pruned
POLL_SECONDS = 0.5
RANDOM = 4  # trials drawn at random after the first ones, which are much alike: TPE would stay near them
# Trials report in hundredths of what they are given. Deep ones lose at first what the probe knew, and regain it while
# the learning rate falls: they are judged after two thirds.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {  # of the number of first trials
    "median": lambda first: MedianPruner(n_startup_trials=first, n_warmup_steps=66),
    "halving": lambda first: SuccessiveHalvingPruner(min_resource=66, reduction_factor=3),
    "none": lambda first: NopPruner(),
}

Values = dict[str, Any]


class Shared:
    """One study, its trials divided among the processes that have it open.

    Each decision is made under the journal's lock. A worker holds a lock of its own as long as it lives, which the
    operating system frees when it is killed; by that the others see whose trials nobody works on any more. This holds
    in containers, too, where pids and names of hosts come again.

    All workers draw from one stream of random numbers, whose state goes with each trial. So a study that was
    interrupted draws what it would have drawn, and no worker what another one has.

    Args:
        folder: of the journal and its locks.
        name: of the study.
        config: how many trials are wanted, the objective, the pruner.
        seed: of the sampler.
        first: values of the first trials, as Optuna keeps them.
        sample: draws a trial's values, given the trials that are done or under way.
        more: whether a further trial is wanted, given these.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Tune,
        *,
        seed: int,
        first: Sequence[Values],
        sample: Callable[[optuna.Trial, list[FrozenTrial]], Values],
        more: Callable[[list[FrozenTrial]], bool],
    ) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.first, self.sample, self.more = first, sample, more
        self.journal = Journal(folder / f"{name}.journal")
        self.workers = folder / f"{name}.workers"
        self.id = uuid.uuid4().hex[:12]
        self._alive = FileLock(self.workers / self.id)

    def __enter__(self) -> Self:
        self.workers.mkdir(parents=True, exist_ok=True)
        self._alive.acquire()
        self.study = self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._alive.release()
        (self.workers / self.id).unlink(missing_ok=True)

    def open(self) -> optuna.Study:
        """Open the study in the journal. The first process to open it queues the first trials."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.journal.lock:
            study = optuna.create_study(
                study_name=self.name,
                storage=self.journal.open(),
                sampler=TPESampler(seed=self.seed, n_startup_trials=len(self.first) + RANDOM),
                pruner=PRUNERS[self.config.pruner](len(self.first)),
                direction="maximize" if MONITORS[self.config.objective][1] == "max" else "minimize",
                load_if_exists=True,
            )
            if not study.get_trials(deepcopy=False):
                for values in self.first:
                    study.enqueue_trial(values)
        return study

    @property
    def done(self) -> int:
        """Trials that came to an end of their own, in whatever process."""
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    def claim(self) -> tuple[optuna.Trial, Values] | None:
        """The next trial for this process and its values; None once no further one is wanted.

        Where the rest is in other hands it waits, and takes over what a process leaves behind that dies.
        """
        told: list[str] = []
        while True:
            with self.journal.lock:
                self._take_back()
                flying = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if self.more(self._begun()):
                    return self._ask()
                if not flying:
                    return None
            waiting = [_described(trial) for trial in flying]
            if waiting != told:
                print(f"tune: waiting for {', '.join(waiting)}", flush=True)
                told = waiting
            time.sleep(POLL_SECONDS)

    def _begun(self) -> list[FrozenTrial]:
        """Trials that are under way, or came to an end of their own."""
        return self.study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))

    def finish(self, trial: optuna.Trial, value: float) -> None:
        self.study.tell(trial, value, skip_if_finished=True)

    def prune(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def give_back(self, trial: optuna.Trial, error: BaseException) -> None:
        """Mark as failed a trial that `error` ended, and queue its values again.

        What fails by no fault of the user or of a signal is queued once only: it would stand in the study's way.
        """
        again = not isinstance(error, Exception) or isinstance(error, UserError) or AGAIN not in trial.user_attrs
        with self.journal.lock:
            study = self.open()  # anew, since a signal may have struck in the middle of an operation
            self._fail(study, study.get_trials(deepcopy=False)[trial.number], again=again)

    def _take_back(self) -> None:
        """Trials of processes that are gone. One without an owner was being claimed, and so is nobody's."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            if owner is None or not self._lives(owner["worker"]):
                self._fail(self.study, trial)
                print(f"tune: {_described(trial)} was killed in flight: its values are tried again", flush=True)

    def _lives(self, worker: str) -> bool:
        if worker == self.id:
            return True
        try:
            FileLock(self.workers / worker, timeout=0).acquire().lock.release()
        except Timeout:
            return True
        (self.workers / worker).unlink(missing_ok=True)
        return False

    def _fail(self, study: optuna.Study, trial: FrozenTrial, *, again: bool = True) -> None:
        """Queued first, then failed: who is killed between the two leaves something to be found, and told apart."""
        values = trial.system_attrs.get("fixed_params") or (trial.params if OWNER in trial.user_attrs else {})
        queued = {other.user_attrs.get(AGAIN) for other in study.get_trials(deepcopy=False)}
        if again and values and trial.number not in queued:
            study.enqueue_trial(values, user_attrs={AGAIN: trial.number})
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _ask(self) -> tuple[optuna.Trial, Values]:
        owners = (trial.user_attrs.get(OWNER) for trial in self.study.get_trials(deepcopy=False))
        states = [owner["random"] for owner in owners if owner and owner["random"]]
        _restore(self.study.sampler, states[-1] if states else self._unused())
        others = self._begun()
        trial = self.study.ask()
        values = self.sample(trial, others)
        # What is tried again was drawn before: whatever the sampler does on the way must not count.
        random = None if AGAIN in trial.user_attrs else _state(self.study.sampler)
        owner = {"worker": self.id, "host": platform.node(), "pid": os.getpid(), "random": random}
        trial.set_user_attr(OWNER, owner)
        return trial, values

    def _unused(self) -> list[Values]:
        return _state(TPESampler(seed=self.seed))


def _described(trial: FrozenTrial) -> str:
    owner = trial.user_attrs.get(OWNER)
    return f"trial {trial.number + 1}" + (f" (process {owner['pid']} on {owner['host']})" if owner else "")


def _generators(sampler: Any) -> tuple[np.random.RandomState, ...]:
    """Of a TPESampler: its own, and that of its first, random trials. Optuna has no public way to them."""
    return sampler._rng.rng, sampler._random_sampler._rng.rng


def _state(sampler: Any) -> list[Values]:
    """What the generators will draw from, fit for JSON."""
    states: list[Any] = [generator.get_state() for generator in _generators(sampler)]
    return [{"key": base64.b64encode(key.astype("<u4")).decode(), "rest": rest} for _, key, *rest in states]


def _restore(sampler: Any, states: list[Values]) -> None:
    for generator, state in zip(_generators(sampler), states, strict=True):
        key = np.frombuffer(base64.b64decode(state["key"]), "<u4")
        generator.set_state(("MT19937", key, *state["rest"]))
