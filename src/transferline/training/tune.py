"""Optuna over learning rate, batch size and freeze depth, in a study that outlives a kill."""

import hashlib
import json
import time
from copy import deepcopy
from typing import Any

import optuna
import pytorch_lightning as pl
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from transferline.artifacts import Best, project_root
from transferline.errors import UserError
from transferline.model import backbones, classifier
from transferline.model.activations import Cache
from transferline.sections import FloatRange, Model, Tune
from transferline.training import budget
from transferline.training.data import Behind, Splits, embed
from transferline.training.fit import Recorder, fit
from transferline.training.module import MONITORS
from transferline.training.stages import make_card

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
FURTHER = ("weight_decay", "dropout", "label_smoothing")


class _Prune(pl.Callback):
    """Reports validation after each epoch and stops a hopeless trial.

    Trials are compared after the same share of what they are given, in hundredths: with a budget of seconds they
    have different numbers of epochs.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, share = (100 * (trainer.current_epoch + past) // (trainer.max_epochs or 1) for past in (0, 1))
        if share == before:  # more epochs than hundredths
            return
        self.trial.report(float(trainer.callback_metrics[self.monitor]), share)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class Tuner:
    """One study: what is tried, how a trial is trained, what came of it.

    Args:
        splits: what is trained and validated on.
        model: the section of that name; one copy of its weights is loaded and shared by all trials.
        config: the tune section.
        seed: of sampler, sample of training images, order and weights of the head.
        data_key: identifies the arrays, so that other data means another study.
        cache: where the trials' frozen blocks keep what they give.
        recorder: the stage's run, under which each trial gets one of its own.

    Raises:
        UserError: where a freeze depth is deeper than the backbone has blocks.
    """

    def __init__(
        self,
        splits: Splits,
        model: Model,
        config: Tune,
        *,
        seed: int,
        data_key: str,
        cache: Cache,
        recorder: Recorder,
    ) -> None:
        self.splits, self.model, self.config, self.seed = splits, model, config, seed
        self.cache, self.recorder = cache, recorder
        self.depth = self._deepest()
        self.name = study_name(model, config, seed, data_key)

    def run(self) -> tuple[Best, optuna.Study]:
        """Try until `trials` trials of this study are done; earlier ones, before a kill, count."""
        study = self._open()
        started = sum(trial.state in FINISHED for trial in study.trials)
        if started:
            print(f"tune: study {self.name} continues after {started} trials", flush=True)
        if started < self.config.trials:
            self.base = classifier.build(make_card(self.model, self.splits.train), self.model.weights, self.seed)
            self.behind = self._embed()
            study.optimize(self._trial, n_trials=self.config.trials - started, gc_after_trial=True)
        return self._best(study), study

    def _embed(self) -> dict[int, Behind]:
        """One pass fills every depth that a trial may ask for, and the one that train will."""
        depths = {*range(self.config.search.freeze_depth.low, self.depth + 1), self.config.start.freeze_depth}
        return embed(self.cache, self.base, self.splits, depths | {len(self.base.blocks)})

    def _deepest(self) -> int:
        blocks = backbones.spec(self.model.backbone).depth
        wanted = {
            "tune.search.freeze_depth.low": self.config.search.freeze_depth.low,
            "tune.search.freeze_depth.high": self.config.search.freeze_depth.high or 0,
            "tune.start.freeze_depth": self.config.start.freeze_depth,
        }
        for key, value in wanted.items():
            if value > blocks:
                raise UserError(
                    f"params.yaml: {key}: {value} is out of range: {self.model.backbone} has {blocks} blocks",
                    f"the nearest right value is {blocks}",
                )
        high = self.config.search.freeze_depth.high
        return blocks if high is None else high

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = project_root() / ".cache" / "tune" / f"{self.name}.journal"
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        names = [known.study_name for known in optuna.get_all_study_summaries(storage)]
        past = optuna.load_study(study_name=self.name, storage=storage).trials if self.name in names else []
        # A sampler made anew with the same seed would draw the same start-up trials again.
        startup = min(10, max(3, self.config.trials // 2))
        pruning = self.config.pruner == "median"
        study = optuna.create_study(
            study_name=self.name,
            storage=storage,
            sampler=TPESampler(seed=self.seed + len(past), n_startup_trials=startup),
            pruner=MedianPruner(n_startup_trials=3) if pruning else NopPruner(),
            direction="maximize" if self.config.objective == "macro_f1" else "minimize",
            load_if_exists=True,
        )
        if not past:
            study.enqueue_trial(self.config.start.model_dump())
        for trial in past:
            if trial.state == TrialState.RUNNING:  # killed in flight: it is tried again
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params or self.config.start.model_dump())
        return study

    def _sample(self, trial: optuna.Trial) -> dict[str, Any]:
        search = self.config.search
        values: dict[str, Any] = {
            "lr": _suggest(trial, "lr", search.lr),
            "batch_size": trial.suggest_categorical("batch_size", sorted(set(search.batch_size))),
            "freeze_depth": trial.suggest_int("freeze_depth", search.freeze_depth.low, self.depth),
        }
        for name in FURTHER:
            bounds = getattr(search, name)
            if bounds is not None:
                values[name] = _suggest(trial, name, bounds)
        return values

    def _trial(self, trial: optuna.Trial) -> float:
        values = self._sample(trial)
        print(f"tune: trial {trial.number + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
        with self.recorder.child(f"trial {trial.number:03d}", values) as run:
            config = self.config.model_copy(
                update={
                    "monitor": self.config.objective,
                    **{key: values[key] for key in ("weight_decay", "label_smoothing") if key in values},
                }
            )
            net, behind = self._classifier(values), self.behind.get(values["freeze_depth"])
            fraction = self.config.train_fraction
            if self.config.budget == "seconds":
                cost = budget.measure(net, self.splits, behind, config, values["batch_size"])
                config, fraction = budget.spend(cost, self.splits, config)
            began = time.perf_counter()
            history = fit(
                net,
                self.splits,
                config,
                lr=values["lr"],
                batch_size=values["batch_size"],
                seed=self.seed,
                recorder=run,
                label=f"tune: trial {trial.number + 1}",
                fraction=fraction,
                behind=behind,
                callbacks=[_Prune(trial, MONITORS[self.config.objective][0])],
            )
            value = history.best[MONITORS[self.config.objective][0]]
            run.log_metrics({"objective": value, "seconds": time.perf_counter() - began})
        return value

    def _classifier(self, values: dict[str, Any]) -> classifier.Classifier:
        copy = deepcopy(self.base)
        if "dropout" in values:
            copy.head.set_dropout(values["dropout"])
        copy.freeze(values["freeze_depth"])
        return copy

    def _best(self, study: optuna.Study) -> Best:
        done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        values = study.best_params if done else self.config.start.model_dump()
        return Best(
            lr=values["lr"],
            batch_size=values["batch_size"],
            freeze_depth=values["freeze_depth"],
            value=study.best_value if done else None,
            study=self.name,
            run_id=self.recorder.run_id,
            **{name: values.get(name) for name in FURTHER},
        )


def study_name(model: Model, config: Tune, seed: int, data_key: str) -> str:
    """A name for all that makes trials comparable: everything but how many are wanted."""
    same = {"model": model.model_dump(), "tune": config.model_dump(exclude={"trials"}), "seed": seed, "data": data_key}
    return "study-" + hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


def _suggest(trial: optuna.Trial, name: str, bounds: FloatRange) -> float:
    return float(trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log))
