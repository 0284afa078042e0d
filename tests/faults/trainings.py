"""Trainings in processes that are killed for real: `python -m tests.faults.trainings` reads jobs, one a line.

It imports what takes seconds once, and forks for each job. It never trains itself, so that its children may.
"""

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import timm.optim  # noqa: F401 - once, before the forks
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file

import transferline.data.transforms  # noqa: F401 - likewise
from tests.conftest import ListRecorder, coloured
from transferline.artifacts import WINNER, Best, ModelCard, Option, Plan, Probed
from transferline.errors import run
from transferline.fitting import Finetune, Train
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.policy import Contrast, HorizontalFlip
from transferline.sections import Activations, Head, Model
from transferline.training import checkpoints, resume, stages
from transferline.training.callbacks import Unfreezing
from transferline.training.data import Splits
from transferline.training.fit import fit

CARD = ModelCard("mobilenet_v3_small", ["blue", "green", "red"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.3)
DEPTH, BATCH, BATCHES, EPOCHS = 10, 8, 4, 3
CASES: dict[str, dict[str, Any]] = {
    "adamw, onecycle": {},
    "sgd, plateau, early stopping": {
        "optimizer": "sgd",
        "schedule": "plateau",
        "plateau_patience": 0,
        "early_stopping": 1,
        "early_stopping_monitor": "train_accuracy",
        "monitor": "loss",
    },
    "gradual unfreezing": {"freezing": "gradual", "schedule": "step", "step_epochs": 1},
    "ema": {"ema": 0.9, "schedule": "cosine"},
    "accumulate, mixup": {"accumulate": 2, "mixup": 0.4, "monitor": "train_loss", "gradient_clip": 1.0},
    "balanced": {"sampling": "balanced", "optimizer": "lamb", "layer_decay": 0.7, "monitor": "train_accuracy"},
    "online": {"optimizer": "rmsprop"},
}


class FileRecorder(ListRecorder):
    """A run whose metrics outlive their process: a line for each call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([step, dict(metrics)]) + "\n")

    def lines(self) -> list[tuple[int, dict[str, float]]]:
        return [tuple(json.loads(line)) for line in self.path.read_text("utf-8").splitlines()]

    def steps(self) -> set[int]:
        return {step for step, _ in self.lines()} if self.path.exists() else set()


class Strike(Callback):
    """Signals its own process at the n-th call of a hook, counted from 1."""

    def __init__(self, hook: str, number: int, signals: list[int]) -> None:
        self.left, self.signals = number, signals
        setattr(self, hook, self.count)

    def count(self, *_: object, **__: object) -> None:
        self.left -= 1
        if self.left == 0:
            for one in self.signals:
                os.kill(os.getpid(), one)


def splits(online: bool = False) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    train = coloured(BATCH * BATCHES, 1 if online else 3)
    if online:
        train = replace(train, online=(HorizontalFlip(name="horizontal_flip"), Contrast(name="contrast", p=0.5)))
    return Splits(train, coloured(70, seed=1), hashes)


def train(case: str, strike: list[Any] | None, keep: bool) -> dict[str, Any]:
    """A training of CASES: what it ends with."""
    options = CASES[case]
    net = classifier.build(CARD, "none", seed=0)
    net.freeze(DEPTH)
    callbacks: list[Callback] = [Strike(*strike)] if strike else []
    if "freezing" in options:
        callbacks.append(Unfreezing(len(net.blocks), DEPTH, None))
    history = fit(
        net,
        splits(online=case == "online"),
        Finetune(epochs=EPOCHS, accelerator="cpu", **options),
        lr=3e-3,
        batch_size=BATCH,
        seed=1,
        recorder=FileRecorder(Path("metrics.jsonl")),
        label="test",
        callbacks=callbacks,
        resume=Path("resume") if keep else None,
    )
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    frozen = [name for name, weight in net.named_parameters() if not weight.requires_grad]
    return {"weights": digest.hexdigest(), "epochs": history.epochs, "best": history.best_epoch, "frozen": frozen}


def line(strike: list[Any] | None) -> dict[str, Any]:
    """train and finetune as the stages call them; with a strike, killed when the second has trained."""
    best = Best(lr=3e-3, batch_size=BATCH, freeze_depth=DEPTH, value=None, study="", run_id="")
    given: dict[str, Any] = {"best": best, "seed": 1, "cache": Cache(Activations(mode="off"))}
    option = Option("last", 0.1, 0.9, 0.6, [0.5, 0.7])
    given |= {
        "probed": Probed("last", [], 0.1, [option], [option], [option], depth=DEPTH),
        "plan": Plan("multiply-adds", BATCH * BATCHES, 2, [1.0] * 14, 0.0, 0, 1.0, [], 1.0, refit=False),
    }
    WINNER.parent.mkdir(parents=True, exist_ok=True)
    save_file({}, WINNER)
    model = Model(backbone="mobilenet_v3_small", weights="none", head=Head(hidden=(16,)))
    options: dict[str, Any] = {"epochs": 2, "accelerator": "cpu"}
    given["recorder"] = FileRecorder(Path("train.jsonl"))
    stages.train_head(splits(), model, Train(**options), **given, resume=Path("resume/train"))
    if strike:
        stages.classifier.save = lambda *_: os.kill(os.getpid(), strike[2][0])
    given["recorder"] = FileRecorder(Path("metrics.jsonl"))
    stages.finetune(splits(), Finetune(**options), **given, resume=Path("resume/finetune"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path("models").rglob("*.*")}


def in_the_middle_of_a_save(number: int) -> None:
    """Kill when half a state is written, the n-th time."""
    writing = checkpoints._Hashing.write
    begun: list[object] = []

    def half(self: Any, data: Any) -> int:
        if Path(self.stream.name).name.startswith(".last"):
            if self not in begun:
                begun.append(self)
            if len(begun) == number and self.stream.tell() > 100_000:
                self.stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return writing(self, data)

    checkpoints._Hashing.write = half


def after_a_save(number: int) -> None:
    """Kill when a state is written for the n-th time."""
    saving, count = resume.Resume._save, iter(range(1, 1_000))

    def save(*args: Any) -> None:
        saving(*args)
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    resume.Resume._save = save


def do(job: dict[str, Any]) -> None:
    """In a process of its own: write result.json into the job's folder, or die in the attempt."""
    os.chdir(job["folder"])
    handle = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    random.seed(job["noise"])
    np.random.seed(job["noise"])
    torch.manual_seed(job["noise"])
    resume.Budget.due = lambda _: job["due"]
    if job.get("save"):
        {"middle": in_the_middle_of_a_save, "after": after_a_save}[job["save"][0]](job["save"][1])

    def main() -> None:
        strike = job.get("strike")
        ends = line(strike) if job["case"] == "line" else train(job["case"], strike, job["keep"])
        Path("result.json").write_text(json.dumps(ends), encoding="utf-8")

    run(main) if job.get("handled", True) else main()


def serve(forked: Callable[[dict[str, Any]], None]) -> None:
    """A JSON object a line in; out, how its process ended: the exit code, or the signal's number, negative."""
    classifier.build(CARD, "none", seed=0)  # with all that it imports
    print("ready", flush=True)
    for text in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 0
            try:
                forked(json.loads(text))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 0
            except BaseException as error:
                import traceback

                traceback.print_exception(error)
                code = 1
            sys.stdout.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(do)
