"""Where runs are kept: the address, the first opening, and the names that MLflow accepts."""

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import quote, urlsplit, urlunsplit

from transferline import artifacts
from transferline.errors import UserError
from transferline.secrets import redacted
from transferline.tracking import backlog, reach, spool
from transferline.tracking.client import Client

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient

_T = TypeVar("_T")

MAX_KEY = 250  # characters of a parameter's, metric's or tag's name
MAX_VALUE = 6000  # characters of a parameter's value
MAX_DATA_SET = 500  # characters of a data set's name
DIGEST = 12  # characters of its digest, so that MLflow's table has room for the name; tags have the whole


def folder() -> Path:
    """The project's own store, whichever copy of the project a queued experiment runs in."""
    return artifacts.project_root() / "mlruns"


def database() -> Path:
    return folder() / "mlflow.db"


def override() -> str | None:
    """The user's own tracking URI, which takes the place of the project's store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def uri() -> str:
    """Absolute, since a relative one would follow the working folder into a queued experiment."""
    return override() or f"sqlite:///{database().as_posix()}"


def address() -> str:
    """The store's address as it may be shown."""
    return redacted(uri())


def place() -> str:
    """Which store it is, whoever asks: without user, password and options, and wherever the project lies."""
    given = override()
    if not given:
        return "the project's own"
    parts = urlsplit(given)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def connect() -> "MlflowClient":
    """Open the store, creating it on the first use, by one process alone: two migrations at once destroy it.

    What processes that have ended could not send is sent first.

    Returns:
        A `client.Client`: it has the methods of MlflowClient, and gets over a store that goes away later.

    Raises:
        UserError: where MLflow cannot open the store, or it is away.
    """
    client = _open()
    if kept().here:
        print(f"tracking: sending what .cache/spool keeps -> {address()}", flush=True)
        _send_kept(client)
    return cast("MlflowClient", Client(client, uri(), place()))


def kept() -> backlog.Kept:
    """How many calls wait in the spool."""
    return backlog.count(place())


def send_kept(report: Callable[[], object]) -> backlog.Sent:
    """Send what waits in the spool for this store.

    Args:
        report: called after each call that is sent.

    Raises:
        UserError: where the store is away.
    """
    return _send_kept(_open(), report)


def real_run(run_id: str) -> str:
    """The id of the run that a local id stands for, once that run is made; any other id as it is."""
    try:
        return spool.real(run_id)
    except spool.UnknownRunError:
        return run_id


def _send_kept(client: "MlflowClient", report: Callable[[], object] = lambda: None) -> backlog.Sent:
    sent = backlog.clear(client, uri(), place(), report)
    if sent.trouble:
        fix = f"{_mend()}; to give up what is not sent, delete {spool.folder()}"
        raise UserError(f"MLflow at {address()} went away while kept calls were sent: {sent.trouble}", fix)
    return sent


def _open() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    reach.be_patient()
    reach.require(uri(), _mend())
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if override():
            with _lock():  # should it be a fresh SQLite database
                return MlflowClient(tracking_uri=uri())
        if not database().exists():
            with _lock():
                _create_database()
        return MlflowClient(tracking_uri=uri())
    except (MlflowException, SQLAlchemyError) as error:
        raise UserError(f"MLflow cannot open {address()}: {redacted(str(error))}", _mend()) from None


def _mend() -> str:
    """What to do about a store that cannot be opened."""
    if not override():
        return "move the file away to begin a new store"
    if uri().startswith("sqlite"):
        return "correct or unset MLFLOW_TRACKING_URI, or move the file away to begin a new store"
    return "start the server, or correct or unset MLFLOW_TRACKING_URI"


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of the experiment of that name, made where there is none.

    Raises:
        UserError: where the experiment has been deleted and waits in MLflow's bin.
    """
    with _lock():
        found = client.get_experiment_by_name(name)
        if found is None:
            # MLflow's own default is <working folder>/mlruns/<id>, and stays so for ever
            location = folder() / "artifacts" / quote(name, safe=" ")
            return str(client.create_experiment(name, None if override() else location.as_uri()))
    if found.lifecycle_stage != "active":
        fix = f"bring it back with 'mlflow experiments restore -x {found.experiment_id}', or name another"
        raise UserError(f"tracking.experiment: '{name}' has been deleted in MLflow", fix)
    return str(found.experiment_id)


def key(name: str) -> str:
    """`name` with what MLflow refuses in the name of a parameter, metric or tag replaced.

    Slashes stay, as MLflow groups by them, but no part between them may be empty or all dots.
    """
    parts = (re.sub(r"[^\w.\- ]", "_", part) for part in name.split("/"))
    return "/".join(part for part in parts if part.strip("."))[:MAX_KEY] or "_"


def log(
    client: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
) -> None:
    """Log in as few calls as MLflow takes: 100 parameters or tags and 1000 metrics in one.

    Parameters and tags are kept without secrets.
    """
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    for pairs in _batches(params, 100):
        client.log_batch(run_id, params=[Param(key(name), redacted(value)) for name, value in pairs])
    for figures in _batches(metrics, 1000):
        client.log_batch(run_id, metrics=[Metric(key(name), float(value), now, step) for name, value in figures])
    for pairs in _batches(tags, 100):
        client.log_batch(run_id, tags=[RunTag(key(name), redacted(value)) for name, value in pairs])


def logged(client: "MlflowClient", run_id: str) -> frozenset[tuple[str, int]]:
    """Metric, by the name it has in MLflow, and step of every figure of a run."""
    names = client.get_run(run_id).data.metrics
    return frozenset((name, figure.step) for name in names for figure in client.get_metric_history(run_id, name))


def log_inputs(client: "MlflowClient", run_id: str, hashes: Mapping[str, str]) -> None:
    """Show files and folders, path -> sha256, in the run's list of data sets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    used = [
        DatasetInput(
            Dataset(path[:MAX_DATA_SET], digest[:DIGEST], "local", json.dumps({"uri": path})),
            [InputTag("mlflow.data.context", "input")],
        )
        for path, digest in hashes.items()
    ]
    client.log_inputs(run_id, used)


@contextmanager
def quiet(name: str, level: int) -> Iterator[None]:
    """Keep back what a logger says below `level`."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _batches(values: Mapping[str, _T] | None, size: int) -> Iterator[list[tuple[str, _T]]]:
    items = list((values or {}).items())
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _lock() -> "BaseFileLock":
    from filelock import FileLock

    folder().mkdir(parents=True, exist_ok=True)
    return FileLock(folder() / "mlflow.lock")


def _create_database() -> None:
    """Migrate aside and move into place, so that a kill half-way leaves no broken database."""
    from mlflow import MlflowClient

    if database().exists():  # another process was first
        return
    print("creating the MLflow database (once)", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        fresh = Path(scratch) / "mlflow.db"
        with quiet("mlflow.store.db.utils", logging.WARNING):
            MlflowClient(tracking_uri=f"sqlite:///{fresh.as_posix()}")
        with artifacts.atomic(database()) as partial:
            shutil.copyfile(fresh, partial)
