"""One line, one run tree: which parent a stage belongs to, and links to the runs DVC reused."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transferline import artifacts, processes
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
RESUMED = "transferline.resumed"  # how often it was gone on with after its end


def state_key() -> str:
    """Hex digest of what decides a run of the line: params.yaml, dvc.yaml and the code."""
    return _digest([Path("params.yaml"), Path("dvc.yaml"), *_code()])


def code_key() -> str:
    """Hex digest of the code."""
    return _digest(_code())


def _code() -> list[Path]:
    return [path for folder in ("src", "pipeline") for path in Path(folder).rglob("*.py")]


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            digest.update(f"{path.as_posix()}\0{artifacts.sha256(path)}\n".encode())
    return digest.hexdigest()


def owner() -> dict[str, str]:
    """Tags by which a run whose process has died is found again."""
    return {HOST: process.host(), PROCESS: processes.identity(os.getpid()) or ""}


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
        if name and (name == ended or not processes.lives(name)):
            client.set_tag(run.info.run_id, ERROR, "its process was killed")
            client.set_terminated(run.info.run_id, "KILLED")


def open_parent(client: "MlflowClient", experiment_id: str, stage: str) -> "Run":
    """The parent run for this pass of `stage`, now RUNNING: joined where one is under way, else made."""
    state = state_key()
    parent = _begun(client, stage, state) or _failed(client, experiment_id, stage, state)
    if parent is None:
        name = os.environ.get("DVC_EXP_NAME") or f"pipeline {state[:6]}"
        return client.create_run(experiment_id, tags={STATE: state, **provenance()}, run_name=name)
    reopen(client, parent)
    return parent


def reopen(client: "MlflowClient", run: "Run", tags: Mapping[str, str] | None = None) -> None:
    """Make it RUNNING again and this process's own; why it ended before is no longer said."""
    store.log(client, run.info.run_id, tags=owner() | dict(tags or {}))
    if ERROR in run.data.tags:
        client.delete_tag(run.info.run_id, ERROR)
    client.update_run(run.info.run_id, status="RUNNING")


@dataclass(frozen=True)
class Left:
    """What an earlier attempt left: a run that has not succeeded, and its parent."""

    run: "Run"
    parent: "Run"


def left(client: "MlflowClient", experiment_id: str, run_id: str | None, parent_id: str | None) -> Left | None:
    """Those of these ids, if this experiment still has both, and the run has not succeeded."""
    run, parent = (find(client, name) if name else None for name in (run_id, parent_id))
    if run is None or parent is None or run.info.status == "FINISHED":
        return None
    return Left(run, parent) if {run.info.experiment_id, parent.info.experiment_id} == {experiment_id} else None


def go_on(client: "MlflowClient", run: "Run") -> None:
    """Reopen the run of a stage, and count how often that was done."""
    reopen(client, run, {RESUMED: str(int(run.data.tags.get(RESUMED, "0")) + 1)})


def open_beside(client: "MlflowClient", experiment_id: str, stage: str) -> "Run":
    """The parent for an on-demand `stage`: the line's newest of this state, left as it is, else one of its own."""
    state = state_key()
    if parent := _newest(client, _records(STAGES), state):
        return parent
    tags = {ASKED: stage, **provenance()}
    return client.create_run(experiment_id, tags=tags, run_name=f"{stage} {state[:6]}")


def link_reused(client: "MlflowClient", parent: "Run", stage: str) -> None:
    """Link to the parent, once, the runs of other parents whose outputs this pass of `stage` reuses."""
    for record in earlier(stage):
        linked = parent.data.tags.get(LINKED + record.stage)
        if record.parent_id != parent.info.run_id and record.run_id != linked:
            _link(client, parent, record)


def earlier(stage: str) -> list[artifacts.RunRecord]:
    """The records of the stages that come before this one in the line."""
    count = STAGES.index(ON_DEMAND[stage]) + 1 if stage in ON_DEMAND else STAGES.index(stage)
    return _records(STAGES[:count])


def _records(stages: Iterable[str]) -> list[artifacts.RunRecord]:
    records = (artifacts.read_run(name) for name in stages)
    return [replace(record, run_id=store.real_run(record.run_id)) for record in records if record]


def _begun(client: "MlflowClient", stage: str, state: str) -> "Run | None":
    """The newest parent of this state that made an earlier stage's outputs, unless it has had this stage."""
    newest = _newest(client, earlier(stage), state)
    return None if newest is None or "FINISHED" in _statuses(client, newest, stage) else newest


def _newest(client: "MlflowClient", records: Iterable[artifacts.RunRecord], state: str) -> "Run | None":
    """The newest parent of this state under which one of these runs was made."""
    found = (find(client, parent_id) for parent_id in {record.parent_id for record in records})
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
    original = find(client, record.run_id)
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


def find(client: "MlflowClient", run_id: str) -> "Run | None":
    """None where the store has no such run, as in a clone that pulled outputs another machine made."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None
