"""Optuna over learning rate, batch size, freeze depth and any other choice, in a study that outlives a kill."""

import gc
import hashlib
import json
import time
from copy import deepcopy
from typing import Any

import optuna
import pytorch_lightning as pl
from optuna.trial import TrialState

from transferline.artifacts import Best, project_root
from transferline.errors import UserError
from transferline.model import backbones, classifier, depths, memory
from transferline.model.activations import Cache
from transferline.model.classifier import make_card
from transferline.sections import Head, Model
from transferline.training import budget
from transferline.training.data import Behind, Splits, embed
from transferline.training.fit import Recorder, fit
from transferline.training.health import NotFiniteError
from transferline.training.optimisers import check_optimizer
from transferline.training.scores import MONITORS
from transferline.training.study import Shared
from transferline.tuning import FloatRange, Search, Space, Tune, WholeRange, first, model_with, with_choices


class _Prune(pl.Callback):
    """Reports validation after each epoch and stops a hopeless trial.

    Trials are compared after the same share of what they are given, in hundredths: with a budget of seconds they
    have different numbers of epochs.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, share = (100 * (trainer.current_epoch + past) // (trainer.max_epochs or 1) for past in (0, 1))
        if share == before:  # more epochs than hundredths
            return
        self.trial.report(float(trainer.callback_metrics[self.monitor]), share)
        if self.trial.should_prune():
            raise optuna.TrialPruned("it stood below the median of its peers")


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
        UserError: where a depth does not suit the backbone, or timm has no optimiser of that name.
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
        spec = backbones.spec(model.backbone)
        self.splits, self.model, self.config, self.seed = splits, model, depths.resolve(config, spec), seed
        self.cache, self.recorder = cache, recorder
        high = config.search.freeze_depth.high
        self.depth = spec.depth if high is None else high
        if "stochastic_depth" in config.search.further:
            spec.require_stochastic_depth(0.0)
        for name in (config.optimizer, *config.search.further.get("optimizer", ())):
            check_optimizer(name)
        self.name = study_name(model, config, seed, data_key)
        start = _as_optuna(first(self.config, self.model))
        folder = project_root() / ".cache" / "tune"
        self.shared = Shared(folder, self.name, self.config, seed=seed, first=start, sample=self._sample)

    def run(self) -> tuple[Best, optuna.Study]:
        """Try until `trials` trials of this study are done; those of other processes, and before a kill, count."""
        with self.shared as shared:
            done = shared.done
            if done:
                print(f"tune: study {self.name} continues after {done} trials", flush=True)
            if done < self.config.trials:
                self.base = classifier.build(make_card(self.model, self.splits.train), self.model.weights, self.seed)
                self.behind = self._embed()
                while claimed := shared.claim():
                    self._try(*claimed)
                    gc.collect()
            return self._best(shared.study), shared.study

    def _embed(self) -> dict[tuple[int, str], Behind]:
        """(depth, pooling) -> the splits behind it; one pass fills every depth that a trial may ask for, and train.

        Behind all blocks, what is kept is pooled, so that each further pooling is a pass of its own.
        """
        search, blocks = self.config.search, len(self.base.blocks)
        wanted = {*range(search.freeze_depth.low, self.depth + 1), self.config.start.freeze_depth, blocks}
        least, most = ({name: self._end(name, end) for name in ("mixup", "cutmix")} for end in ("low", "high"))
        always = self.config.model_copy(update=least)
        if self.config.model_copy(update=most).mixes and not always.mixes:
            print("tune: trials that mix images (mixup, cutmix) run the frozen blocks every epoch", flush=True)
        found = embed(self.cache, self.base, self.splits, wanted, always)
        own: str = self.model.head.pooling
        behind = {(depth, own): kept for depth, kept in found.items()}
        for pooling in search.further.get("pooling", ()):
            if found and self.depth == blocks and pooling != own:
                net = self._classifier({"pooling": pooling, "freeze_depth": blocks})
                kept = embed(self.cache, net, self.splits, {blocks})
                behind |= {(blocks, pooling): kept[blocks]} if kept else {}
        return behind

    def _end(self, name: str, end: str) -> float:
        """The lowest or highest value that a trial may have."""
        space = self.config.search.further.get(name)
        return float(getattr(space, end) if space else getattr(self.config, name))

    def _kept(self, values: dict[str, Any], config: Tune) -> Behind | None:
        """What lies behind the frozen blocks of a trial, where it is of use."""
        if config.mixes:
            return None
        depth, own = values["freeze_depth"], self.model.head.pooling
        pooled = depth == len(self.base.blocks)
        return self.behind.get((depth, values.get("pooling", own) if pooled else own))

    def _sample(self, trial: optuna.Trial) -> dict[str, Any]:
        search = self.config.search
        values: dict[str, Any] = {
            "lr": _suggest(trial, "lr", search.lr),
            "batch_size": _suggest(trial, "batch_size", tuple(sorted(search.batch_size))),
            "freeze_depth": trial.suggest_int("freeze_depth", search.freeze_depth.low, self.depth),
        }
        return values | {name: _suggest(trial, name, space) for name, space in search.further.items()}

    def _try(self, trial: optuna.Trial, values: dict[str, Any]) -> None:
        """One trial, in a run of its own. What ends this process, or this stage, leaves it to be tried again."""
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"tune: trial {trial.number + 1}: {shown}", flush=True)
        try:
            with self.recorder.child(f"trial {trial.number:03d}", values) as run:
                try:
                    value = self._trained(trial, values, run)
                except optuna.TrialPruned as pruned:
                    run.set_tags({"pruned_because": str(pruned)})
                    self.shared.prune(trial)
                    raise
                self.shared.finish(trial, value)
        except optuna.TrialPruned:
            return
        except BaseException as error:
            self.shared.give_back(trial, error)
            raise

    def _trained(self, trial: optuna.Trial, values: dict[str, Any], run: Recorder) -> float:
        """The objective. Raises TrialPruned where values contradict each other, diverge, or take too much memory."""
        try:
            config = with_choices(self.config, values, values["batch_size"])
            net = self._classifier(values)
        except UserError as error:  # each value is right, together they are not
            raise self._left_out(trial, str(error)) from None
        config = config.model_copy(update={"monitor": self.config.objective})
        try:
            return self._train(trial, net, config, values, run)
        except NotFiniteError as error:
            raise self._left_out(trial, error.what) from None
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            memory.release(error)
            reason = f"a batch of {values['batch_size']} does not fit into memory"
        raise self._left_out(trial, reason)

    def _left_out(self, trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
        print(f"tune: trial {trial.number + 1} is left out: {reason}", flush=True)
        return optuna.TrialPruned(reason)

    def _train(
        self, trial: optuna.Trial, net: classifier.Classifier, config: Tune, values: dict[str, Any], run: Recorder
    ) -> float:
        behind, fraction = self._kept(values, config), config.train_fraction
        if config.budget == "seconds":
            cost = budget.measure(net, self.splits, behind, config, values["batch_size"])
            config, fraction = budget.spend(cost, self.splits, config)
        monitor, _ = MONITORS[config.objective]
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
            callbacks=[_Prune(trial, monitor)],
        )
        run.log_metrics({"objective": history.best[monitor], "seconds": time.perf_counter() - began})
        return history.best[monitor]

    def _classifier(self, values: dict[str, Any]) -> classifier.Classifier:
        """A copy of the base as the trial wants it. Raises UserError where its head contradicts itself."""
        model = model_with(self.model, values)
        if any(name in values for name in ("stochastic_depth", *Head.model_fields)):
            copy = classifier.rebuild(self.base, make_card(model, self.splits.train), self.seed)
        else:
            copy = deepcopy(self.base)
            copy.head.set_dropout(model.dropout)
        copy.freeze(values["freeze_depth"])
        return copy

    def _best(self, study: optuna.Study) -> Best:
        done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        found = {name: getattr(self.config.start, name) for name in Space.model_fields}
        if done:
            found = {name: _as_given(value, self.config.search, name) for name, value in study.best_params.items()}
        return Best(
            **{name: found.pop(name) for name in Space.model_fields},
            value=study.best_value if done else None,
            study=self.name,
            run_id=self.recorder.run_id,
            choices=found,
        )


def study_name(model: Model, config: Tune, seed: int, data_key: str) -> str:
    """A name for all that makes trials comparable: everything but how many are wanted."""
    same = {"model": model.model_dump(), "tune": config.model_dump(exclude={"trials"}), "seed": seed, "data": data_key}
    return "study-" + hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


def _suggest(trial: optuna.Trial, name: str, space: Any) -> Any:
    if isinstance(space, WholeRange):
        return trial.suggest_int(name, space.low, space.high, log=space.log)
    if isinstance(space, FloatRange):
        return float(trial.suggest_float(name, space.low, space.high, log=space.log))
    named = {_named(value): value for value in space}
    return named[trial.suggest_categorical(name, list(named))]


def _named(value: Any) -> Any:
    """A choice as Optuna keeps it, which has no lists."""
    return json.dumps(value) if isinstance(value, tuple) else value


def _as_optuna(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _named(value) for name, value in values.items()}


def _as_given(value: Any, search: Search, name: str) -> Any:
    """A value of Optuna's as it stands in best.json."""
    choices = search.further.get(name, ())
    return json.loads(value) if isinstance(choices, tuple) and any(isinstance(one, tuple) for one in choices) else value
