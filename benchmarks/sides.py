"""The three sides of `embed_once`, each in a process of its own, so that its peak memory is its own."""

import argparse
import logging
import math
import multiprocessing
import os
import resource
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

from transferline.artifacts import read_manifest

LABELS = {"plain": "plain Lightning and Optuna", "recomputed": "ours, recomputed", "cached": "ours, cached"}
PROBE = 320  # images trained on to learn what a step costs


@dataclass(frozen=True)
class Trial:
    lr: float
    batch_size: int
    depth: int

    @property
    def kind(self) -> tuple[int, int]:
        """What decides the cost."""
        return self.depth, self.batch_size


@dataclass(frozen=True)
class Outcome:
    """Of one trial: seconds, whether it was trained whole, best macro-F1 on validation."""

    seconds: float
    whole: bool
    score: float | None = None


@dataclass
class Side:
    """What one side has done with one list."""

    preparation: float = 0.0  # seconds
    disk: int = 0  # bytes
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.preparation + sum(outcome.seconds for outcome in self.outcomes.values())

    @property
    def per_hour(self) -> float:
        return 3600 * len(self.outcomes) / self.seconds

    @property
    def scores(self) -> dict[Trial, float]:
        """Of the trials that were trained whole."""
        return {trial: outcome.score for trial, outcome in self.outcomes.items() if outcome.score is not None}


class Bench(ABC):
    """Trains trials, whole or in part."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        warnings.filterwarnings("ignore")
        for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Spawned processes would hand "spawn" down to DataLoader's workers, which then import torch in every trial.
        multiprocessing.set_start_method(None, force=True)
        os.chdir(work)
        self.options = options
        rows = read_manifest(Path("manifest.parquet"))
        self.rows = {name: [row for row in rows if row.split == name] for name in ("train", "val")}

    def probe(self, trial: Trial) -> float:
        """Seconds that the whole trial would take, from one epoch of some images."""
        clock, start = _clock(), time.perf_counter()
        count = min(PROBE, len(self.rows["train"]))
        self.train(trial, 1, count, [clock])
        step = mean(clock.steps[1:] or clock.steps)
        steps = math.ceil(len(self.rows["train"]) / trial.batch_size)
        return clock.first - start + self.options.epochs * (steps * step + clock.validation)

    def whole(self, trial: Trial) -> Outcome:
        start = time.perf_counter()
        score = self.train(trial, self.options.epochs, len(self.rows["train"]), [])
        return Outcome(time.perf_counter() - start, True, score)

    def peak(self) -> int:
        """Bytes, of this process and of the largest of its workers."""
        return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    @abstractmethod
    def train(self, trial: Trial, epochs: int, count: int, callbacks: list[Any]) -> float:
        """Best macro-F1 on validation, of a trial that sees `count` of the images."""


class Plain(Bench):
    """A study of Optuna is given the trials; files are read as they are needed."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        import optuna

        super().__init__(work, options)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize")

    def train(self, trial: Trial, epochs: int, count: int, callbacks: list[Any]) -> float:
        from benchmarks import plain

        rows = self.rows["train"][:: max(len(self.rows["train"]) // count, 1)][:count]
        training = plain.Training(
            rows, self.rows["val"], self.options.folder, self.options.backbone, epochs, self.options.seed, callbacks
        )
        self.study.enqueue_trial(asdict(trial))
        self.study.optimize(training.objective, n_trials=1)
        return float(self.study.trials[-1].values[0])


class Ours(Bench):
    """Arrays, and the product's own loop; behind the cache for the depths it was built for, recomputing else."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        from transferline.artifacts import ModelCard, read_arrays
        from transferline.model import backbones, classifier
        from transferline.training.data import Splits

        super().__init__(work, options)
        hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
        self.splits = Splits(read_arrays("train", Path("arrays")), read_arrays("val", Path("arrays")), hashes)
        spec, train = backbones.spec(options.backbone), self.splits.train
        size = int(train.images.shape[2])
        card = ModelCard(options.backbone, train.classes, size, "squash", list(spec.mean), list(spec.std), 0.2)
        self.net = classifier.build(card, "pretrained", options.seed)
        self.behind: dict[int, Any] = {}

    def prepare(self, depths: set[int]) -> tuple[float, int]:
        """Build the cache for these depths from nothing; seconds and bytes."""
        from transferline.model.activations import Cache
        from transferline.sections import Activations
        from transferline.training.data import embed

        shutil.rmtree("cache", ignore_errors=True)
        start = time.perf_counter()
        self.behind = embed(Cache(Activations(), Path("cache")), self.net, self.splits, depths)
        kept = sum(side.stored.entry.bytes for behind in self.behind.values() for side in behind)
        return time.perf_counter() - start, kept

    def train(self, trial: Trial, epochs: int, count: int, callbacks: list[Any]) -> float:
        from copy import deepcopy
        from dataclasses import replace

        from transferline.fitting import Fit
        from transferline.training.data import Kept
        from transferline.training.fit import fit

        net, train, behind = deepcopy(self.net), self.splits.train, self.behind.get(trial.depth)
        net.freeze(trial.depth)
        fewer = replace(train, images=train.images[:count], labels=train.labels[:count], paths=train.paths[:count])
        if behind:
            kept = Kept(replace(behind.train.stored, values=behind.train.stored.values[:count]))
            behind = behind._replace(train=kept)
        with redirect_stdout(StringIO()):
            history = fit(
                net,
                self.splits._replace(train=fewer),
                Fit(epochs=epochs, backbone_lr_factor=0.8, batchnorm="train", monitor="macro_f1"),
                lr=trial.lr,
                batch_size=trial.batch_size,
                seed=self.options.seed,
                recorder=_Nowhere(),
                label="",
                behind=behind,
                callbacks=callbacks,
            )
        return max(epoch["val_macro_f1"] for epoch in history.epochs)


class _Nowhere:
    run_id = ""

    def log_metrics(self, *_: object, **__: object) -> None:
        """Forget them."""


def _clock() -> Any:
    """A Lightning callback that notes when training begins, what each step takes, and validation."""
    from pytorch_lightning.callbacks import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.first, self.last, self.began, self.validation = 0.0, 0.0, 0.0, 0.0
            self.steps: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.first = self.last = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            now = time.perf_counter()
            self.steps.append(now - self.last)
            self.last = now

        def on_validation_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_validation_end(self, *_: Any) -> None:
            self.validation = time.perf_counter() - self.began

    return Clock()


# --- from outside its process -----------------------------------------------------------------------------------------


class Remote:
    """A bench in a process of its own; `call` runs one of its methods there."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def call(self, method: str, *arguments: Any) -> Any:
        return self.pool.submit(_call, method, *arguments).result()


@contextmanager
def remotes(work: Path, options: argparse.Namespace) -> Iterator[dict[str, Remote]]:
    """One for each side; their processes end with the block, whatever happens in it."""
    with ExitStack() as processes:
        yield {
            name: Remote(
                processes.enter_context(
                    ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (name, work, options))
                )
            )
            for name in LABELS
        }


_benches: list[Bench] = []  # one a process


def _begin(name: str, work: Path, options: argparse.Namespace) -> None:
    _benches.append((Plain if name == "plain" else Ours)(work, options))


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_benches[0], method)(*arguments)
