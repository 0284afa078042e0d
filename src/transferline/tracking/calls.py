"""Calls of MlflowClient that write: as JSON for the spool, and sent so that sending again changes nothing.

Of MLflow's SQL store, 3.17.2 (store/tracking/sqlalchemy_store.py): a metric with the same key, timestamp, step and
value is ignored (`_log_metrics_once`), so is a parameter with the same value, and a data set that the run has; tags,
states and artifacts overwrite. `create_run` and `log_outputs` would add, so that what is there is looked up first.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferline.tracking import spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MARK = "transferline.mark"  # of a run, made up before the run is: by it one finds out whether it was made
ANSWER_SECONDS = 10  # for which a server is waited for; MLflow's own default is 120
PASSING_SECONDS = 3  # the same, for what is tried in passing
_UPLOAD_SECONDS = {ANSWER_SECONDS: 60, PASSING_SECONDS: 10}  # a server may pass an upload on before it answers
_TIMEOUT, _RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_UPLOADS = {"log_artifact", "log_artifacts", "log_model_artifacts"}


@dataclass(frozen=True)
class Call:
    """A method of MlflowClient that writes, and what it is given, by name.

    Times are given, and never left to the client: sent again, the call must say the same.
    """

    name: str
    given: dict[str, Any]


def to_record(call: Call, kept: spool.Spool) -> dict[str, Any]:
    """As JSON; files that it names are copied into the spool."""
    given: dict[str, Any] = {name: _plain(name, value) for name, value in call.given.items()}
    for name in spool.FILES & given.keys():
        given[name] = kept.copy(Path(given[name]))
    return {"call": call.name, "given": given}


def from_record(record: Mapping[str, Any]) -> Call:
    given = dict(record["given"])
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = _ENTITIES[name](value)
    for name in spool.FILES & given.keys():
        given[name] = str(spool.folder() / given[name])
    return Call(record["call"], given)


def send(client: "MlflowClient", call: Call, *, again: bool = False) -> Any:
    """Send a call; what MLflow returns.

    Args:
        again: the store may have had it already.

    Raises:
        spool.UnknownRunError: where it refers to a run that has not been made yet.
        Exception: MLflow's.
    """
    given = {name: _real(value) for name, value in call.given.items()}
    if call.name == "create_run":
        return _create_run(client, given, again)
    if call.name == "log_outputs":
        return _log_outputs(client, given, again)
    with patience(call.name):
        return getattr(client, call.name)(**given)


@contextmanager
def patience(name: str) -> Iterator[None]:
    """Wait longer for the answer where the method of that name uploads files, unless the user says how long."""
    longer = _UPLOAD_SECONDS.get(int(os.environ.get(_TIMEOUT, "0")))
    with _setting(_TIMEOUT, longer) if name in _UPLOADS and longer else nullcontext():
        yield


@contextmanager
def in_passing() -> Iterator[None]:
    """Try once and wait briefly: the training goes on after this."""
    with _setting(_TIMEOUT, PASSING_SECONDS), _setting(_RETRIES, 0):
        yield


@contextmanager
def _setting(name: str, value: int) -> Iterator[None]:
    """MLflow reads its environment at each request, and takes these numbers from nowhere else."""
    before = os.environ.get(name)
    os.environ[name] = str(value)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _create_run(client: "MlflowClient", given: dict[str, Any], again: bool) -> "Run":
    mark = given["tags"][MARK]
    run = _made(client, given["experiment_id"], mark) if again else None
    if run is None:
        with _setting(_RETRIES, 0):  # MLflow's own retries would make two
            run = client.create_run(**given)
    if again:
        spool.learn(spool.LOCAL + mark, run.info.run_id)
    return run


def _made(client: "MlflowClient", experiment_id: str, mark: str) -> "Run | None":
    from mlflow.entities import ViewType

    found = client.search_runs([experiment_id], f"tags.`{MARK}` = '{mark}'", run_view_type=ViewType.ALL)
    return found[0] if found else None


def _log_outputs(client: "MlflowClient", given: dict[str, Any], again: bool) -> None:
    run_id, models = given["run_id"], given["models"]
    if again:
        outputs = client.get_run(run_id).outputs
        there = {model.model_id for model in outputs.model_outputs} if outputs else set()
        models = [model for model in models if model.model_id not in there]
    if models:
        with _setting(_RETRIES, 0):
            client.log_outputs(run_id, models)


def _real(value: Any) -> Any:
    """With the ids of real runs in place of local ones, in a text, in tags by name, or in a list of MLflow's tags."""
    if isinstance(value, str):
        return spool.real(value)
    if isinstance(value, dict):
        return {name: spool.real(text) for name, text in value.items()}
    if value and isinstance(value, list) and type(value[0]).__name__ == "RunTag":
        return [type(tag)(tag.key, spool.real(tag.value)) for tag in value]
    return value


def _metrics(rows: list[list[Any]]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(*row) for row in rows]


def _params(rows: list[list[str]]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(*row) for row in rows]


def _tags(rows: list[list[str]]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(*row) for row in rows]


def _datasets(rows: list[dict[str, Any]]) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(Dataset(**row["dataset"]), [InputTag(key, value) for key, value in row["tags"].items()])
        for row in rows
    ]


def _models(rows: list[list[Any]]) -> list[Any]:
    from mlflow.entities import LoggedModelOutput

    return [LoggedModelOutput(*row) for row in rows]


def _plain(name: str, value: Any) -> Any:
    """Lists of MLflow's objects as lists of what makes them."""
    if name == "metrics":
        return [[metric.key, float(metric.value), metric.timestamp, metric.step] for metric in value]
    if name == "params" or (name == "tags" and isinstance(value, list)):
        return [[pair.key, pair.value] for pair in value]
    if name == "datasets":
        return [dataset.to_dictionary() for dataset in value]
    if name == "models":
        return [[model.model_id, model.step] for model in value]
    return value


_ENTITIES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "datasets": _datasets,
    "models": _models,
}
