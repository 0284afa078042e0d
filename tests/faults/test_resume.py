"""Killed at any moment and run again, a training ends with what it would have ended with, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.trainings import BATCHES, CASES, EPOCHS, FileRecorder

ROOT = Path(__file__).parents[2]
KILL, TERM, INT = int(signal.SIGKILL), int(signal.SIGTERM), int(signal.SIGINT)
Run = Callable[..., int]


@pytest.fixture(scope="module")
def server() -> Iterator[Run]:
    """Runs a job of trainings.py in a process of its own; the exit code, or the number of the signal, negative."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    command = [sys.executable, "-W", "error", "-m", "tests.faults.trainings"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout
        assert answers.readline() == "ready\n"
        noise = iter(range(1_000))

        def run(folder: Path, case: str, **job: Any) -> int:
            folder.mkdir(exist_ok=True)
            job = {"due": True, "keep": True, "noise": next(noise), "folder": str(folder), "case": case} | job
            asked.write(json.dumps(job) + "\n")
            asked.flush()
            return int(answers.readline())

        yield run
        asked.close()


@pytest.fixture(scope="module")
def undisturbed(server: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a training that keeps nothing and is left alone, made once for each case."""
    made: dict[str, Path] = {}

    def folder(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("undisturbed")
            assert server(made[case], case, keep=False) == 0, output(made[case])
        return made[case]

    return folder


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text("utf-8")


def said(folder: Path) -> list[str]:
    """The lines printed about resuming."""
    return [line for line in output(folder).splitlines() if line.endswith(("(resumed)", "not used", "from there"))]


def same(folder: Path, other: Path) -> None:
    """What a training ends with, and what it logged, each step once."""
    results = [json.loads((each / "result.json").read_text("utf-8")) for each in (folder, other)]
    assert results[0] == results[1], output(folder)
    logged = [FileRecorder(each / "metrics.jsonl").lines() for each in (folder, other)]
    assert logged[0] == logged[1], output(folder)


# Where to strike, one process after the other: in the middle of an epoch, in validation, before an epoch's metrics are
# logged, when they are logged but not kept, in a later epoch, and when all is trained.
MOMENTS: list[list[Any]] = [
    ["on_train_batch_end", 3, [KILL]],
    ["on_validation_batch_end", 1, [KILL]],
    ["on_validation_end", 1, [KILL]],
    ["on_train_epoch_end", 1, [KILL]],
    ["on_train_batch_end", BATCHES + 3, [KILL]],
    ["on_train_end", 1, [KILL]],
]


@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again(server: Run, undisturbed: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    moments = MOMENTS if case == "adamw, onecycle" else [MOMENTS[0], MOMENTS[3], MOMENTS[0]]
    for strike in moments:
        assert server(tmp_path, case, strike=strike) == -KILL, output(tmp_path)
    assert server(tmp_path, case) == 0, output(tmp_path)
    assert len(said(tmp_path)) == len(moments), output(tmp_path)
    same(tmp_path, undisturbed(case))


def test_a_state_half_written_is_not_taken_up(server: Run, undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    case = "adamw, onecycle"
    assert server(tmp_path, case, save=["middle", 1]) == -KILL, output(tmp_path)
    assert [path.name[:5] for path in (tmp_path / "resume").iterdir()] == [".last"]
    assert server(tmp_path, case, save=["middle", 7]) == -KILL, output(tmp_path)
    assert server(tmp_path, case, save=["after", 1]) == -KILL, output(tmp_path)
    assert server(tmp_path, case) == 0, output(tmp_path)
    places = [f"after epoch 2, batch {batch} of {BATCHES}" for batch in (1, 2)]
    assert said(tmp_path) == [f"test: goes on {place} (resumed)" for place in places], output(tmp_path)
    assert not list((tmp_path / "resume").glob(".*"))
    same(tmp_path, undisturbed(case))


def test_a_damaged_state_is_named_and_the_one_before_is_taken(
    server: Run, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    case = "adamw, onecycle"
    assert server(tmp_path, case, strike=["on_train_batch_end", BATCHES + 3, [KILL]]) == -KILL, output(tmp_path)
    last, previous = tmp_path / "resume/last.ckpt", tmp_path / "resume/previous.ckpt"
    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    last.write_bytes(flipped)
    assert server(tmp_path, case, strike=["on_train_batch_end", 2, [KILL]]) == -KILL, output(tmp_path)
    for path in (last, previous):
        path.write_bytes(path.read_bytes()[:-1000])
    assert server(tmp_path, case) == 0, output(tmp_path)
    one, two = (f"test: resume/{name}.ckpt is damaged, so it is not used" for name in ("last", "previous"))
    assert said(tmp_path) == [one, f"test: goes on after epoch 2, batch 1 of {BATCHES} (resumed)", one, two]
    same(tmp_path, undisturbed(case))


@pytest.mark.parametrize("number", [TERM, INT])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end"])
def test_a_signal_waits_for_the_state_to_be_kept(
    server: Run, undisturbed: Callable[[str], Path], tmp_path: Path, number: int, hook: str
) -> None:
    case = "ema" if number == TERM else "accumulate, mixup"
    assert server(tmp_path, case, due=False, strike=[hook, 3, [number]]) == 128 + number, output(tmp_path)
    assert server(tmp_path, case, due=False) == 0, output(tmp_path)
    batch = {"on_train_batch_end": 3 if case == "ema" else 4, "on_validation_batch_end": BATCHES}[hook]
    place = f"after epoch {1 if hook == 'on_train_batch_end' else 2}, batch {batch} of {BATCHES}"
    stopped, resumed = f"test: stopped {place}; the next run goes on from there", f"test: goes on {place} (resumed)"
    assert said(tmp_path) == [stopped, resumed]
    same(tmp_path, undisturbed(case))


def test_a_second_signal_does_not_wait(server: Run, undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    case = "adamw, onecycle"
    strike = ["on_train_batch_start", 3, [TERM, INT]]
    assert server(tmp_path, case, due=False, strike=strike) == 128 + INT, output(tmp_path)
    assert not list((tmp_path / "resume").iterdir())
    assert server(tmp_path, case) == 0, output(tmp_path)
    assert not said(tmp_path)
    same(tmp_path, undisturbed(case))


def test_a_signal_in_the_last_moments_is_not_lost(
    server: Run, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    case = "adamw, onecycle"
    assert server(tmp_path, case, due=False, strike=["on_train_end", 1, [TERM]]) == 128 + TERM, output(tmp_path)
    assert server(tmp_path, case) == 0, output(tmp_path)
    assert said(tmp_path) == ["test: was trained before it was stopped (resumed)"]
    assert output(tmp_path).count("test: epoch") == EPOCHS
    same(tmp_path, undisturbed(case))


@pytest.mark.parametrize("keep", [True, False])
def test_a_signal_that_nothing_handles_never_ends_with_0(server: Run, tmp_path: Path, keep: bool) -> None:
    strike = ["on_train_batch_end", 2, [TERM]]
    assert server(tmp_path, "online", keep=keep, handled=False, strike=strike) == 128 + TERM, output(tmp_path)


def test_what_has_trained_does_not_train_again(server: Run, tmp_path: Path) -> None:
    assert server(tmp_path, "line") == 0, output(tmp_path)
    whole = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert {"history.csv", "model.safetensors"} <= set(whole)
    other = tmp_path / "other"
    assert server(other, "line", strike=["", 0, [KILL]]) == -KILL, output(other)
    assert not (other / "models/finetuned").exists()
    assert server(other, "line") == 0, output(other)
    assert json.loads((other / "result.json").read_text("utf-8")) == whole
    again = [f"{name}: was trained before it was stopped (resumed)" for name in ("train", "finetune")]
    assert said(other) == again
    assert [step for step, _ in FileRecorder(other / "metrics.jsonl").lines()] == [0, 1]
