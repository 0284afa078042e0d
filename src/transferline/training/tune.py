"""Optuna over learning rate, batch size, freeze depth and any other choice, in a study that outlives a kill."""

import gc
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytorch_lightning as pl
from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import save_file

from transferline.artifacts import Best, Plan, Probed, atomic, project_root, read_plan, write_plan
from transferline.errors import UserError
from transferline.fitting import Finetune
from transferline.model import backbones, classifier, depths, memory
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, make_card
from transferline.model.engines import EVERY
from transferline.model.linear_probe import log_losses
from transferline.model.work import block_work, training_work
from transferline.sections import Model
from transferline.training import choice, plan
from transferline.training.choice import Tried
from transferline.training.data import Behind, Splits, behind, kept_splits
from transferline.training.fit import Recorder
from transferline.training.health import NotFiniteError
from transferline.training.optimisers import check_optimizer
from transferline.training.probe import BlockFeatures, block_features, fit_head, probe
from transferline.training.scores import MONITORS
from transferline.training.space import as_given, as_optuna, suggest, within_data
from transferline.training.stages import adapt
from transferline.training.study import REASON, Shared
from transferline.tuning import Space, Tune, first, model_with, with_choices


class _Prune(pl.Callback):
    """Reports validation after each epoch and stops a hopeless trial.

    Trials are compared after the same share of their epochs, in hundredths. Trials of the head alone do not report:
    they keep what the probe has learned, and beside them every trial of blocks would look hopeless.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, share = (100 * (trainer.current_epoch + past) // (trainer.max_epochs or 1) for past in (0, 1))
        if share == before:  # more epochs than hundredths
            return
        self.trial.report(float(trainer.callback_metrics[self.monitor]), share)
        if self.trial.should_prune():
            raise optuna.TrialPruned("it stood behind its peers")


class Tuner:
    """The probe, then one study: what is tried, how a trial is trained, what came of it.

    Args:
        splits: what is trained and validated on.
        model: the section of that name; one copy of its weights is loaded and shared by all trials.
        config: the tune section.
        finetune: how a trial is trained.
        seed: of sampler, order and weights of the head.
        data_key: identifies the arrays, so that other data means another study.
        cache: where the trials' frozen blocks keep what they give.
        recorder: the stage's run, under which the probe and each trial get one of their own.

    Raises:
        UserError: where a depth does not suit the backbone, or timm has no optimiser of that name.
    """

    def __init__(
        self,
        splits: Splits,
        model: Model,
        config: Tune,
        finetune: Finetune,
        *,
        seed: int,
        data_key: str,
        cache: Cache,
        recorder: Recorder,
    ) -> None:
        self.began = time.perf_counter()
        spec = backbones.spec(model.backbone)
        self.splits, self.model, self.seed = splits, model, seed
        self.config = within_data(depths.resolve(config, spec), len(splits.train.labels))
        self.finetune = finetune.model_copy(update={"monitor": config.objective})
        self.cache, self.recorder = cache, recorder
        high = config.search.freeze_depth.high
        self.depth = spec.depth if high is None else high
        if "stochastic_depth" in config.search.further:
            spec.require_stochastic_depth(0.0)
        for name in (finetune.optimizer, *config.search.further.get("optimizer", ())):
            check_optimizer(name)
        self.name = study_name(model, config, finetune, seed, data_key)
        self.folder = project_root() / ".cache" / "tune"
        self.winner: Path | None = None

    def probe(self) -> Probed:
        """The linear probe, the head that starts from it, and the plan; before `run`."""
        self.base = classifier.build(make_card(self.model, self.splits.train), self.model.weights, self.seed)
        self.kept = self._embed(self.base)
        features = block_features(self.base, self.splits, self.kept)
        print("tune: a linear probe on frozen features", flush=True)
        with self.recorder.child("probe", {"features": self.model.head.features}) as run:
            self.probed = probe(features, self.splits.train, self.model.head, self.seed)
            self.start = start_net(
                self.base, self.model, self.splits, probed=self.probed, features=features, seed=self.seed
            )
            losses, right = log_losses(self._logits(self.start, len(self.base.blocks)), self.splits.val.labels)
            run.log_metrics({"cv_loss": self.probed.taken.loss, "cv_accuracy": self.probed.taken.accuracy,
                             "val_loss": float(losses.mean()), "val_accuracy": float(right.mean())})  # fmt: skip
        self.plan = self._plan()
        return self.probed

    def run(self) -> tuple[Best, optuna.Study | None]:
        """Try until the plan's budget is spent, or its trials are done; those of other processes count.

        Raises:
            UserError: where no trial came to an end.
        """
        if self.config.trials == 0:
            depth = self.config.start.freeze_depth
            start = self.config.start
            return self._answer(start.lr, start.batch_size, self.probed.depth if depth is None else depth), None
        shared = Shared(
            self.folder,
            self.name,
            self.config,
            seed=self.seed,
            first=self._first(),
            sample=self._sample,
            more=self._more,
        )
        with shared as self.shared:
            if done := shared.done:
                print(f"tune: study {self.name} continues after {done} trials", flush=True)
            while claimed := shared.claim():
                self._try(*claimed)
                gc.collect()
            return self._best(shared.study), shared.study

    def planned(self) -> str:
        """The plan in a line."""
        made = self.plan
        many = f"{made.trials} trials" if made.trials is not None else "as many trials as fit into the budget"
        first = ", ".join(map(str, made.first))
        return f"{many} of {made.epochs} epochs, first at freeze depths {first}; the probe suggests {self.probed.depth}"

    def keep_winner(self, path: Path) -> None:
        """What the trial that was taken has learnt, for finetune; an empty file where nothing was tried."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            if self.winner is None:
                save_file({}, partial)
            else:
                shutil.copyfile(self.winner, partial)

    # What is planned.

    def _plan(self) -> Plan:
        """By rule; or by the clock, once: a study that goes on after a kill keeps its plan."""
        images, config = len(self.splits.train.labels), self.config
        path = self.folder / f"{self.name}.plan.json"
        if config.minutes is None:
            made = plan.by_rule(self.start, config, self.finetune, images)
        elif path.exists():
            return read_plan(path)
        else:
            spent = time.perf_counter() - self.began
            validation, blocks = len(self.splits.val.labels), len(self.base.blocks)
            made = plan.by_clock(
                config, self.finetune, images, validation, seconds=self._seconds(), blocks=blocks, spent=spent
            )
        made = plan.with_first(made, config, self.probed.depth)
        if config.minutes is not None:
            write_plan(made, path)
        return made

    def _seconds(self) -> Callable[[int], float]:
        """Of training on one image at each depth: measured at some, worked out between them by their work."""
        blocks, works = len(self.base.blocks), block_work(self.start)
        timed = sorted({min(2, blocks), -(-blocks // 2), blocks - 1, blocks})
        rates, taken = [], {}
        for depth in timed:
            self.start.freeze(depth)
            kept = behind(self.kept, self.start, depth)
            work = training_work(self.start, works, depth, kept=kept is not None)
            taken[depth] = plan.measure(self.start, self.splits, kept, self.finetune, self.config.start.batch_size)
            rates.append(taken[depth] / work)

        def seconds(depth: int) -> float:
            work = training_work(self.start, works, depth, kept=depth in self.kept)
            return taken.get(depth) or float(np.interp(depth, timed, rates)) * work

        return seconds

    def _first(self) -> list[dict[str, Any]]:
        """Where half of the blocks or more are frozen, but not all, at a lower rate: there a little is enough."""
        values = as_optuna(first(self.config, self.finetune, self.model))
        blocks, start = len(self.base.blocks), self.config.start.freeze_depth
        share = plan.gentle(len(self.splits.train.labels))
        gentle = {"lr": max(share * values["lr"], self.config.search.lr.low)}
        return [
            values | {"freeze_depth": depth} | (gentle if blocks <= 2 * depth < 2 * blocks and depth != start else {})
            for depth in self.plan.first
        ]

    def _more(self, trials: list[FrozenTrial]) -> bool:
        """Whether to start another trial, given those that are finished or running."""
        made = self.plan
        most = plan.MOST_TRIALS if made.unit == "multiply-adds" else math.inf
        if made.trials is not None or len(trials) >= most:
            return len(trials) < (made.trials or most)
        return len(trials) < len(made.first) or self._shallowest(trials) is not None

    def _shallowest(self, trials: list[FrozenTrial]) -> int | None:
        low = self.config.search.freeze_depth.low
        if self.plan.trials is not None:
            return low
        spent = sum(self.plan.cost(trial.params["freeze_depth"]) for trial in trials if trial.params)
        return plan.shallowest(self.plan, low, self.depth, spent)

    def _sample(self, trial: optuna.Trial, others: list[FrozenTrial]) -> dict[str, Any]:
        search = self.config.search
        queued = "fixed_params" in trial.storage.get_trial_system_attrs(trial._trial_id)
        affordable = None if queued else self._shallowest(others)
        low = search.freeze_depth.low if affordable is None else affordable
        values: dict[str, Any] = {
            "lr": suggest(trial, "lr", search.lr),
            "batch_size": suggest(trial, "batch_size", tuple(sorted(search.batch_size))),
            "freeze_depth": trial.suggest_int("freeze_depth", low, self.depth),
        }
        return values | {name: suggest(trial, name, space) for name, space in search.further.items()}

    # What is kept.

    def _embed(self, net: Classifier) -> dict[int, Any]:
        """The splits behind the depths that a trial may ask for, and behind every block: one pass for all."""
        config, blocks = self.config, len(net.blocks)
        low: int | None = config.search.freeze_depth.low
        if config.minutes is None and config.trials == "auto":  # else the budget is not known yet, or is no limit
            rule = plan.by_rule(net, config, self.finetune, len(self.splits.train.labels))
            low = plan.shallowest(rule, config.search.freeze_depth.low, self.depth, spent=0.0)
        possible = set(range(self.depth if low is None else low, self.depth + 1))
        possible.add(blocks if config.start.freeze_depth is None else config.start.freeze_depth)
        wanted = possible & set(plan.cached_depths(block_work(net)))
        if self._always_mixes():
            print("mixup, cutmix: images are mixed anew, so every epoch runs the frozen blocks", flush=True)
            wanted = set()
        return kept_splits(self.cache, net, self.splits, {*wanted, blocks, EVERY})

    def _always_mixes(self) -> bool:
        """Whether every trial mixes images, so that no activations are of use."""
        least = {name: self._lowest(name) for name in ("mixup", "cutmix")}
        return self.finetune.model_copy(update=least).mixes

    def _lowest(self, name: str) -> float:
        space = self.config.search.further.get(name)
        return float(space.low if space else getattr(self.finetune, name))

    def _behind(self, net: Classifier, config: Finetune) -> Behind | None:
        """What lies behind the frozen blocks of a trial, where it is of use."""
        depth = net.freeze_depth
        other = depth == len(net.blocks) and str(net.head.pool) != str(self.base.head.pool)
        return None if config.mixes or other else behind(self.kept, net, depth)

    # A trial.

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
                    self.shared.prune(trial, str(pruned))
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
            config = with_choices(self.finetune, values, values["batch_size"])
            net = self._classifier(values)
        except UserError as error:  # each value is right, together they are not
            raise self._left_out(trial, str(error)) from None
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
        self, trial: optuna.Trial, net: Classifier, config: Finetune, values: dict[str, Any], run: Recorder
    ) -> float:
        monitor, _ = MONITORS[config.monitor]
        began, kept = time.perf_counter(), self._behind(net, config)
        history = adapt(
            net,
            self.splits,
            config.model_copy(update={"epochs": self.plan.epochs}),
            lr=values["lr"],
            batch_size=values["batch_size"],
            seed=self.seed,
            recorder=run,
            label=f"tune: trial {trial.number + 1}",
            behind=kept,
            callbacks=[_Prune(trial, monitor)] if net.freeze_depth < len(net.blocks) else [],
        )
        value = history.best[monitor]
        tried = Tried.of(net, choice.validation_logits(net, self.splits, kept))
        tried.write(self._files(trial.number))
        run.log_metrics({"objective": value, "seconds": time.perf_counter() - began})
        return value

    def _files(self, number: int) -> Path:
        return self.folder / self.name / f"trial_{number:03d}.safetensors"

    def _classifier(self, values: dict[str, Any]) -> Classifier:
        """A copy of the start as the trial wants it. Raises UserError where its head contradicts itself."""
        model = model_with(self.model, values)
        if "stochastic_depth" in values or model.head != self.model.head:
            copy = classifier.rebuild(self.start, make_card(model, self.splits.train, self.probed.taps), self.seed)
            if model.head == self.model.head:
                copy.head.load_state_dict(self.start.head.state_dict())
        else:
            copy = deepcopy(self.start)
            copy.head.set_dropout(model.dropout)
        copy.freeze(0 if self.finetune.freezing == "full" else values["freeze_depth"])  # as finetune will
        return copy

    def _logits(self, net: Classifier, depth: int) -> Any:
        net.freeze(depth)
        return choice.validation_logits(net, self.splits, behind(self.kept, net, depth))

    # What came of it.

    def _best(self, study: optuna.Study) -> Best:
        done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        if not done:
            raise _nothing_found(study)
        taken = choice.best_trial(done, self.config.objective)
        self.winner = self._files(taken.number)
        found = {name: as_given(value, self.config.search, name) for name, value in taken.params.items()}
        named = {name: found.pop(name) for name in Space.model_fields}
        if self.config.objective == "loss" and (taken.value or 0.0) >= self._chance():
            print(
                f"tune: the best trial's loss of {taken.value:.3g} is no better than answering with the classes'"
                " shares, whatever the image: look at the images and their labels",
                flush=True,
            )
        return self._answer(**named, value=taken.value, choices=found)

    def _chance(self) -> float:
        """Log loss on validation of the classes' shares in train, whatever the image."""
        counts, labels = self.splits.train.counts, self.splits.val.labels
        if labels.ndim == 2:
            share = np.clip(counts / len(self.splits.train.labels), 1e-6, 1 - 1e-6)
            return float(-(labels * np.log(share) + (1 - labels) * np.log(1 - share)).mean())
        return float(-np.log(np.maximum(counts / counts.sum(), 1e-6))[labels].mean())

    def _answer(
        self,
        lr: float,
        batch_size: int,
        freeze_depth: int,
        *,
        value: float | None = None,
        choices: Mapping[str, Any] | None = None,
    ) -> Best:
        images = len(self.splits.train.labels) + len(self.splits.val.labels)
        self.plan = replace(self.plan, refit=plan.refits(self.plan, self.finetune, freeze_depth, images))
        name = "" if value is None else self.name
        return Best(lr, batch_size, freeze_depth, value, name, self.recorder.run_id, dict(choices or {}))


def start_net(
    base: Classifier, model: Model, splits: Splits, *, probed: Probed, features: BlockFeatures, seed: int
) -> Classifier:
    """`base` with the head that the probe gives, fitted on the training images."""
    net = classifier.rebuild(base, make_card(model, splits.train, probed.taps), seed)
    fit_head(net, features.train[:, features.columns(probed.taps)], splits.train.labels, probed.prior, seed)
    return net


def _nothing_found(study: optuna.Study) -> UserError:
    """Where every trial was left out: how many, why each was, and what to change."""
    reasons = [f"trial {trial.number + 1}: {trial.user_attrs.get(REASON, 'pruned')}" for trial in study.trials
               if trial.state == TrialState.PRUNED]  # fmt: skip
    return UserError(
        f"tune: none of {len(reasons)} trials came to its end ({'; '.join(reasons)})",
        "where losses are not finite, lower tune.start.lr and tune.search.lr in params.yaml, or set"
        " finetune.gradient_clip: 0.1; where memory ran out, take smaller tune.search.batch_size",
    )


def study_name(model: Model, config: Tune, finetune: Finetune, seed: int, data_key: str) -> str:
    """A name for all that makes trials comparable: everything but how many are wanted."""
    trained = finetune.model_dump(exclude={"refit", "checkpoint_share"})
    tune = config.model_dump(exclude={"trials"})
    same = {"model": model.model_dump(), "tune": tune, "finetune": trained, "seed": seed, "data": data_key}
    return "study-" + hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]
