"""Run as a script: a stage of a few epochs, each logged and kept as a checkpoint, to be killed from outside.

    python stages.py NAME EPOCHS     it waits at the epoch for which a file `wait-<epoch>` lies in the working folder
    python stages.py --serve         the same for each such line on stdin, in a process of its own, forked: importing
                                     mlflow is paid for once. A line may begin with the folder to work in.

Each process prints lines of JSON: its pid, what it does, and its run.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from transferline import config, errors, sections, tracking


def tell(**what: object) -> None:
    os.write(1, (json.dumps({"pid": os.getpid(), **what}) + "\n").encode())  # whole, among other processes' lines


def main(name: str, epochs: int) -> None:
    params = config.Params()
    params.seed, params.tracking = epochs, sections.Tracking(experiment="faults")
    tell(does="begin")
    with tracking.stage(name, params, [Path("input")]) as run:
        checkpoint = run.resume / "epoch" if run.resume else None
        done = int(checkpoint.read_text()) if checkpoint and checkpoint.exists() else 0
        tell(does="open", run=run.run_id, parent=run.parent_id, resumed=run.resumed, done=done, folder=str(run.resume))
        for epoch in range(epochs):  # from the first on: what was logged must not be logged again
            wait(f"wait-{epoch}", epoch)
            run.log_metrics({"train_loss": 1 / (epoch + 1)}, step=epoch)
            if checkpoint:
                checkpoint.write_text(str(epoch + 1))
        Path("output").write_text(str(epochs))
    tell(does="end")


def wait(name: str, epoch: int) -> None:
    if Path(name).exists():
        tell(does="wait", epoch=epoch)
    deadline = time.monotonic() + 300  # should the test that started it have died
    while Path(name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def serve() -> None:
    for store in ("tracking", "model_registry"):  # what opening a store imports: once, before the forks
        importlib.import_module(f"mlflow.store.{store}.sqlalchemy_store")
    for line in sys.stdin:
        folder, name, epochs = line.split()
        if os.fork() == 0:
            os.chdir(folder)
            try:
                errors.run(lambda name=name, epochs=epochs: main(name, int(epochs)))
            except SystemExit as ending:
                tell(does="exit", code=ending.code)
                os._exit(ending.code)
            tell(does="exit", code=0)
            os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        errors.run(lambda: main(sys.argv[1], int(sys.argv[2])))
