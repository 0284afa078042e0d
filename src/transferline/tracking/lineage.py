"""One line, one run tree: which parent a stage belongs to, and links to the runs DVC reused."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transferline import artifacts
from transferline.tracking import process, store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STAGES = ("fetch", "prepare", "augment", "tune", "train", "finetune", "evaluate", "export", "register")
# Beside the line, when asked for: what each reads is there once this stage has run.
ON_DEMAND = {"compare": "prepare", "lr_find": "augment"}

PARENT = "mlflow.parentRunId"  # MLflow draws its tree from this tag
NOTE = "mlflow.note.content"
COMMIT = "mlflow.source.git.commit"
STAGE = "transferline.stage"
STATE = "transferline.state"
ASKED = "transferline.on_demand"  # the stage that made this parent for itself; the line never joins such a one
HOST = "transferline.host"
PROCESS = "transferline.process"
CACHED_FROM = "transferline.cached_from"
LINKED = "transferline.linked."
ERROR = "transferline.error"


def state_key() -> str:
    """Hex digest of what decides a run of the line: params.yaml, dvc.yaml and the code."""
    code = (path for folder in ("src", "pipeline") for path in Path(folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in sorted([Path("params.yaml"), Path("dvc.yaml"), *code]):
        if path.is_file():
            digest.update(f"{path.as_posix()}\0{artifacts.sha256(path)}\n".encode())
    return digest.hexdigest()


def owner() -> dict[str, str]:
    """Tags by which a run whose process has died is found again."""
    return {HOST: process.host(), PROCESS: process.identity(os.getpid()) or ""}


def provenance() -> dict[str, str]:
    """Tags that say where a run comes from: the code, the experiment, the process."""
    tags = {COMMIT: process.git_commit(), **owner()}
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.exp"] = experiment
    return tags


def close_abandoned(client: "MlflowClient", experiment_id: str, ended: str | None = None) -> None:
    """Mark as KILLED the runs shown RUNNING whose process on this host is gone.

    Args:
        ended: a process known to have ended.
    """
    for run in _search(client, experiment_id, {HOST: process.host()}, "and attributes.status = 'RUNNING'"):
        name = run.data.tags.get(PROCESS, "")
        if name and (name == ended or not process.lives(name)):
            client.set_tag(run.info.run_id, ERROR, "its process was killed")
            client.set_terminated(run.info.run_id, "KILLED")


def open_parent(client: "MlflowClient", experiment_id: str, stage: str) -> "Run":
    """The parent run for this pass of `stage`, now RUNNING: joined where one is under way, else made."""
    state = state_key()
    parent = _begun(client, stage, state) or _failed(client, experiment_id, stage, state)
    if parent is None:
        name = os.environ.get("DVC_EXP_NAME") or f"pipeline {state[:6]}"
        return client.create_run(experiment_id, tags={STATE: state, **provenance()}, run_name=name)
    store.log(client, parent.info.run_id, tags=owner())
    client.update_run(parent.info.run_id, status="RUNNING")
    return parent


def open_beside(client: "MlflowClient", experiment_id: str, stage: str) -> "Run":
    """The parent for an on-demand `stage`: the line's newest of this state, left as it is, else one of its own."""
    state = state_key()
    if parent := _newest(client, _records(STAGES), state):
        return parent
    tags = {ASKED: stage, **provenance()}
    return client.create_run(experiment_id, tags=tags, run_name=f"{stage} {state[:6]}")


def link_reused(client: "MlflowClient", parent: "Run", stage: str) -> None:
    """Link to the parent, once, the runs of other parents whose outputs this pass of `stage` reuses."""
    for record in _earlier(stage):
        linked = parent.data.tags.get(LINKED + record.stage)
        if record.parent_id != parent.info.run_id and record.run_id != linked:
            _link(client, parent, record)


def _earlier(stage: str) -> list[artifacts.RunRecord]:
    count = STAGES.index(ON_DEMAND[stage]) + 1 if stage in ON_DEMAND else STAGES.index(stage)
    return _records(STAGES[:count])


def _records(stages: Iterable[str]) -> list[artifacts.RunRecord]:
    records = (artifacts.read_run(name) for name in stages)
    return [record for record in records if record]


def _begun(client: "MlflowClient", stage: str, state: str) -> "Run | None":
    """The newest parent of this state that made an earlier stage's outputs, unless it has had this stage."""
    newest = _newest(client, _earlier(stage), state)
    return None if newest is None or "FINISHED" in _statuses(client, newest, stage) else newest


def _newest(client: "MlflowClient", records: Iterable[artifacts.RunRecord], state: str) -> "Run | None":
    """The newest parent of this state under which one of these runs was made."""
    found = (_find(client, parent_id) for parent_id in {record.parent_id for record in records})
    parents = [parent for parent in found if parent and parent.data.tags.get(STATE) == state]
    return max(parents, key=lambda parent: parent.info.start_time, default=None)


def _failed(client: "MlflowClient", experiment_id: str, stage: str, state: str) -> "Run | None":
    """The newest parent of this state, where this stage was tried in it and has not succeeded."""
    parents = _search(client, experiment_id, {STATE: state})
    if not parents:
        return None
    statuses = _statuses(client, parents[0], stage)
    return parents[0] if statuses and statuses <= {"FAILED", "KILLED"} else None


def _link(client: "MlflowClient", parent: "Run", record: artifacts.RunRecord) -> None:
    """A finished child that stands for a run made under another parent, with its figures and a link to it."""
    original = _find(client, record.run_id)
    if original is None:
        note = f"Outputs reused from run `{record.run_id}`, which is not in this MLflow store."
    else:
        address = f"#/experiments/{original.info.experiment_id}/runs/{record.run_id}"
        note = f"Outputs reused from [{original.info.run_name}]({address}), run `{record.run_id}`."
    tags = {PARENT: parent.info.run_id, STAGE: record.stage, CACHED_FROM: record.run_id, NOTE: note}
    link = client.create_run(parent.info.experiment_id, tags=tags, run_name=f"{record.stage} (cached)").info.run_id
    if original is not None:
        store.log(client, link, params=original.data.params, metrics=original.data.metrics)
        if original.inputs is not None:
            client.log_inputs(link, original.inputs.dataset_inputs)
    client.set_terminated(link, "FINISHED")
    client.set_tag(parent.info.run_id, LINKED + record.stage, record.run_id)


def _statuses(client: "MlflowClient", parent: "Run", stage: str) -> set[str]:
    runs = _search(client, parent.info.experiment_id, {PARENT: parent.info.run_id, STAGE: stage})
    return {run.info.status for run in runs}


def _search(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str], more: str = "") -> "list[Run]":
    """Runs that carry these tags, newest first."""
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([experiment_id], f"{wanted} {more}", order_by=["attributes.start_time DESC"]))


def _find(client: "MlflowClient", run_id: str) -> "Run | None":
    """None where the store has no such run, as in a clone that pulled outputs another machine made."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None
