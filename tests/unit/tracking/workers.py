"""Run as a script: several stages begin at once on a fresh store, each in a process of its own.

Each prints a line of JSON when its run is open. `tune` and `train` then wait to be killed; `train`
has no watchdog, as after a power cut.
"""

import importlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferline import config, sections, tracking
from transferline.tracking import watchdog

for store in ("tracking", "model_registry"):  # what opening a store imports: once, before the forks
    importlib.import_module(f"mlflow.store.{store}.sqlalchemy_store")

WAITING = ("tune", "train")
STAGES = ("fetch", "prepare", *WAITING)


@contextmanager
def no_guard() -> Iterator[watchdog.Guard]:
    with Path(os.devnull).open("wb") as pipe:
        yield watchdog.Guard(pipe)


def work(name: str) -> None:
    Path(name).mkdir()
    os.chdir(name)  # each in a folder of its own, as queued experiments are
    params = config.Params()
    params.tracking = sections.Tracking(experiment="workers")
    if name == "train":
        watchdog.guard = no_guard
    with tracking.stage(name, params, []) as run, run.child("trial", {}) as trial:
        opened = {"stage": name, "pid": os.getpid(), "runs": [trial.run_id, run.run_id, run.parent_id]}
        print(json.dumps(opened), flush=True)
        if name in WAITING:
            time.sleep(600)


if __name__ == "__main__":
    os.environ["DVC_ROOT"] = str(Path.cwd())
    for name in STAGES:
        if os.fork() == 0:
            work(name)
            os._exit(0)
    for _ in STAGES:
        os.wait()
