"""Stages killed for real: they go on in the run they had, wait for each other, and end with their `dvc`."""

import itertools
import json
import os
import queue
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from transferline.artifacts import ARRAYS, TRAINING
from transferline.errors import UserError
from transferline.tracking import checks, store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

SCRIPT = [sys.executable, str(Path(__file__).with_name("stages.py"))]
PATIENCE = 120  # seconds after which a test that waits has failed


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Stages:
    """Processes of `stages.py --serve`, and what they say."""

    def __init__(self, root: Path) -> None:
        environment = os.environ | {"DVC_ROOT": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            [*SCRIPT, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.put(line)

    def start(self, folder: Path, name: str, epochs: int = 3) -> int:
        """The pid of a new stage."""
        self.process.stdin.write(f"{folder} {name} {epochs}\n")
        self.process.stdin.flush()
        return self.hear("begin")["pid"]

    def hear(self, does: str, pid: int | None = None) -> dict:
        """The next word of that kind, of that process where one is named."""
        while True:
            line = self.said.get(timeout=PATIENCE)
            word = json.loads(line) if line.startswith("{") else {"does": line, "pid": pid}
            if word["does"].startswith(does) and pid in (None, word["pid"]):
                return word


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def stages(root: Path) -> Iterator[Stages]:
    served = Stages(root)
    yield served
    os.killpg(served.process.pid, signal.SIGKILL)
    served.process.communicate()


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store.connect()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "copy")


def made(folder: Path) -> Path:
    """A working copy whose stages wait before their third epoch; the inputs are the test's own."""
    folder.mkdir()
    (folder / "input").write_text(folder.parent.name)
    (folder / "wait-2").touch()
    return folder


def watchdogs(pid: int) -> list[str]:
    """Those of a stage that are still there."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes().decode().split("\0"))
        except OSError:
            continue
    return [command[-2] for command in commands if "watchdog.py" in " ".join(command) and str(pid) in command]


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [figure.step for figure in client.get_metric_history(run_id, "train_loss")]


def test_killed_outright_while_another_waits_which_goes_on_in_the_same_run(stages, client, folder):
    first = stages.start(folder, "train", 4)
    opened = stages.hear("open", first)
    assert not opened["resumed"]
    stages.hear("wait", first)
    second = stages.start(folder, "train", 4)
    stages.hear(f"train: waiting for process {first}, ")
    os.kill(first, signal.SIGKILL)
    again = stages.hear("open", second)
    assert (again["run"], again["parent"]) == (opened["run"], opened["parent"])
    assert (again["resumed"], again["done"]) == (True, 2)
    until(lambda: not watchdogs(first))  # the dead one's has closed what was its own, and that alone
    assert client.get_run(opened["run"]).info.status == client.get_run(opened["parent"]).info.status == "RUNNING"
    (folder / "wait-2").unlink()
    assert stages.hear("exit", second)["code"] == 0
    assert steps(client, opened["run"]) == [0, 1, 2, 3]
    for run_id in (opened["run"], opened["parent"]):
        assert client.get_run(run_id).info.status == "FINISHED"
        assert "transferline.error" not in client.get_run(run_id).data.tags
    assert json.loads((folder / "runs/train.json").read_text())["run_id"] == opened["run"]
    assert not Path(opened["folder"]).exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_it_says_so_closes_its_runs_and_is_gone_on_with(stages, client, folder, sent, code):
    first = stages.start(folder, "finetune")
    opened = stages.hear("open", first)
    stages.hear("wait", first)
    os.kill(first, sent)
    assert stages.hear("exit", first)["code"] == code
    assert {client.get_run(opened[run]).info.status for run in ("run", "parent")} == {"KILLED"}
    assert not (folder / "runs").exists()
    (folder / "wait-2").unlink()
    assert stages.hear("open", stages.start(folder, "finetune"))["run"] == opened["run"]
    assert stages.hear("exit")["code"] == 0
    assert steps(client, opened["run"]) == [0, 1, 2]


def test_other_data_or_parameters_begin_anew_and_the_old_ones_go_on(stages, folder):
    first = stages.start(folder, "train")
    stages.hear("wait", first)
    os.kill(first, signal.SIGKILL)
    (folder / "wait-2").unlink()
    for name, epochs, given in (("train", 4, ""), ("finetune", 3, ""), ("train", 3, "changed")):
        data = (folder / "input").read_text()
        (folder / "input").write_text(given or data)
        opened = stages.hear("open", stages.start(folder, name, epochs))
        assert (opened["resumed"], opened["done"]) == (False, 0)
        assert stages.hear("exit", opened["pid"])["code"] == 0
        (folder / "input").write_text(data)
    opened = stages.hear("open", stages.start(folder, "train"))
    assert (opened["resumed"], opened["done"]) == (True, 2)
    assert stages.hear("exit", opened["pid"])["code"] == 0


def test_two_copies_with_the_same_inputs_neither_wait_nor_share(stages, client, folder, tmp_path):
    copies = [folder, made(tmp_path / "other")]
    opened = [stages.hear("open", stages.start(copy, "train")) for copy in copies]
    assert len({word["run"] for word in opened}) == len({word["folder"] for word in opened}) == 2
    for copy in copies:
        (copy / "wait-2").unlink()
    assert {stages.hear("exit")["code"] for _ in copies} == {0}
    assert [steps(client, word["run"]) for word in opened] == [[0, 1, 2]] * 2


def test_asked_to_end_at_any_moment_it_never_says_that_it_is_done(stages, client, folder):
    rng, ended = np.random.default_rng(5), []
    for sent, code in itertools.islice(itertools.cycle([(signal.SIGTERM, 143), (signal.SIGINT, 130)]), 8):
        pid = stages.start(folder, "evaluate")  # waits before its third epoch, if it gets so far
        time.sleep(rng.uniform(0, 1.5))
        os.kill(pid, sent)
        word = stages.hear("exit", pid)
        assert word["code"] == code
        ended.append(pid)
    until(lambda: not any(watchdogs(pid) for pid in ended))
    experiment = client.get_experiment_by_name("faults")
    assert experiment is not None
    assert client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'") == []
    assert not (folder / "runs").exists()


def begin_dvc(folder: Path, root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_ROOT": str(root), "DVC_NO_ANALYTICS": "true", "SHELL": "/bin/sh"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)


def run_dvc(folder: Path, root: Path, *arguments: str) -> list[str]:
    """The lines it prints; it must succeed."""
    process = begin_dvc(folder, root, *arguments)
    said = process.communicate()[0]
    assert process.returncode == 0
    return said.splitlines()


WRITER = """
from transferline import artifacts
from transferline.tracking import checks
artifacts.write_json(artifacts.ARRAYS / "classes.json", ["a", "b"])
artifacts.write_run(artifacts.RunRecord("augment", "run", "parent", {}, checks.output_hashes("augment")))
print("written", flush=True)
"""


def test_a_bit_flipped_in_the_cache_of_dvc_is_mended_by_what_the_message_says(folder, root, monkeypatch):
    monkeypatch.chdir(folder)
    Path("writer.py").write_text(WRITER)
    outs = ["data/augmented", "runs/augment.json"]
    stage = {"cmd": f"{sys.executable} writer.py", "deps": ["input"], "outs": outs}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"augment": stage}}))
    for command in (["init", "-q", "--no-scm"], ["config", "cache.type", "hardlink"], ["repro"]):
        run_dvc(folder, root, *command)
    shutil.rmtree("data")
    run_dvc(folder, root, "checkout")  # now it is the cache's own file
    file = ARRAYS / "classes.json"
    assert (file.stat().st_nlink, stat.S_IMODE(file.stat().st_mode)) == (2, 0o444)
    before, then = file.read_bytes(), file.stat().st_mtime
    file.write_bytes(before.replace(b"a", b"e"))
    os.utime(file, (then, then))  # as where the disk did it
    with pytest.raises(UserError, match=r"^data/augmented/classes.json is not as augment wrote it\n  'dvc repro' has"):
        checks.input_hashes("tune", TRAINING)
    assert "written" in run_dvc(folder, root, "repro")
    assert file.read_bytes() == before
    assert checks.input_hashes("tune", TRAINING)


def test_a_stage_whose_dvc_is_killed_saves_and_ends_and_the_next_dvc_goes_on(client, folder, root):
    stage = {"cmd": " ".join([*SCRIPT, "train", "3"]), "deps": ["input"], "outs": ["output", "runs/train.json"]}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
    run_dvc(folder, root, "init", "-q", "--no-scm")
    dvc = begin_dvc(folder, root, "repro")
    words = (json.loads(line) for line in dvc.stdout if line.startswith("{"))
    opened = next(word for word in words if word["does"] == "open")
    assert next(words)["does"] == "wait"
    dvc.kill()
    assert list(words) == []  # the pipe ends with the stage
    dvc.communicate()
    run = client.get_run(opened["run"])
    assert (run.info.status, run.data.tags["transferline.error"]) == ("KILLED", "SystemExit: 143")
    (folder / "wait-2").unlink()
    words = [json.loads(line) for line in run_dvc(folder, root, "repro") if line.startswith("{")]
    assert [(word["run"], word["done"]) for word in words if word["does"] == "open"] == [(opened["run"], 2)]
    assert steps(client, opened["run"]) == [0, 1, 2]
    assert client.get_run(opened["run"]).info.status == "FINISHED"
