"""An MLflow store that cannot be opened, and an SQLite database that another process locks."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline import sync
from tests.faults import stores
from tests.faults.stores import history, keep, new_run, params, restored_signals, waiting
from transferline import errors, tracking
from transferline.errors import UserError
from transferline.tracking import reach, spool, store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
project = stores.project


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated store: made once, as it takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def sqlite(project: Path, database: bytes) -> Path:
    """The project's own store."""
    store.folder().mkdir()
    store.database().write_bytes(database)
    return store.database()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the database until the block ends."""
    code = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_a_locked_database_is_waited_for_and_then_done_without(
    sqlite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    through = store.connect()
    run = new_run(through)
    Path("figure.txt").write_text("figure")
    with locked(sqlite):  # MLflow waits 20 seconds
        for step in range(5):
            through.log_metric(run.info.run_id, "loss", step, step=step)
        through.log_artifact(run.info.run_id, "figure.txt")
    assert len(waiting()) == 1
    through.set_terminated(run.info.run_id)
    assert waiting() == []
    seen = through.get_run(run.info.run_id)
    assert seen.info.status == "FINISHED"
    assert history(through, run.info.run_id) == [(step, step) for step in range(5)]
    assert (Path(seen.info.artifact_uri.removeprefix("file://")) / "figure.txt").read_text() == "figure"
    captured = capsys.readouterr()
    assert [line.partition(";")[0] for line in captured.out.splitlines()] == [
        f"tracking: MLflow at sqlite:///{sqlite} does not answer",
        f"tracking: MLflow at sqlite:///{sqlite} answers again",
    ]
    assert captured.err == ""


def test_a_stage_waits_for_a_locked_database_but_not_for_ever(
    sqlite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reach, "LOCKED_SECONDS", 0.0)
    with locked(sqlite), pytest.raises(UserError, match=f"{sqlite} has been locked by another process"):
        store.connect()
    assert "is locked by another process: waiting" in capsys.readouterr().out
    store.connect()


@pytest.mark.parametrize("override", [False, True])
def test_a_damaged_database_is_named_at_once(sqlite: Path, monkeypatch: pytest.MonkeyPatch, override: bool) -> None:
    sqlite.write_bytes(b"no database at all" * 100)
    if override:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{sqlite}")
    with pytest.raises(UserError, match="file is not a database") as caught:
        store.connect()
    assert str(sqlite) in str(caught.value)
    assert "move the file away" in caught.value.fix
    assert ("MLFLOW_TRACKING_URI" in caught.value.fix) == override


@pytest.mark.parametrize("host", ["closed", "silent"])
def test_a_server_away_from_the_start_is_one_message_without_the_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setattr(reach, "_FIRST_SECONDS", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if host == "silent":
            listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter22@127.0.0.1:{port}")

        def main() -> None:
            with tracking.stage("train", params(), inputs=[]):
                raise AssertionError("opened")

        with restored_signals(), pytest.raises(SystemExit) as ended:
            errors.run(main)
    assert ended.value.code == 1
    said = capsys.readouterr()
    trouble = "connection refused" if host == "closed" else "timed out"
    what, fix = said.err.splitlines()
    assert what == f"error: MLflow cannot open http://me:***@127.0.0.1:{port}: {trouble}"
    assert fix == "  start the server, or correct or unset MLFLOW_TRACKING_URI"
    assert "hunter22" not in said.out + said.err


def test_what_is_the_callers_fault_is_raised_and_not_kept(sqlite: Path) -> None:
    through = store.connect()
    run = new_run(through)
    through.log_param(run.info.run_id, "lr", 1)
    for call, code in (
        (lambda: through.log_param(run.info.run_id, "lr", 2), "INVALID_PARAMETER_VALUE"),
        (lambda: through.set_tag("f" * 32, "a", "b"), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: through.get_run("f" * 32), "RESOURCE_DOES_NOT_EXIST"),
    ):
        with pytest.raises(MlflowException) as caught:
            call()
        assert caught.value.error_code == code
    assert not spool.folder().exists()


def test_calls_for_another_store_are_not_sent_to_this_one(sqlite: Path) -> None:
    through = store.connect()
    run = new_run(through)
    keep(run, 3, "https://elsewhere.example/mlflow")
    with pytest.raises(UserError, match=r"4 calls are kept for another store, https://elsewhere\.example/mlflow"):
        sync.main()
    assert store.connect().get_run(run.info.run_id).data.metrics == {}
    assert len(waiting()) == 1
