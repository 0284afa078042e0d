"""A run for each stage beneath the pipeline's, with what went in, what came out and how it ended."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from transferline import artifacts
from transferline.config import Params
from transferline.secrets import redacted
from transferline.tracking import checks, lineage, locks, resume, store, watchdog

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CUT = "... (cut)"
_EVERY_EPOCH = "train_loss"  # what training logs once an epoch


@dataclass(frozen=True)
class StageRun:
    """An open run: of a stage, or of a trial beneath one.

    Attributes:
        inputs: of a stage: path -> sha256.
        resume: the folder for what a killed stage goes on from; None for stages that begin again.
        resumed: whether this run goes on where an earlier attempt was killed or failed.
        logged: what that attempt logged: metric, by its name in MLflow, and step.
    """

    run_id: str
    parent_id: str
    experiment_id: str
    client: "MlflowClient"
    inputs: dict[str, str] = field(default_factory=dict)
    resume: Path | None = None
    resumed: bool = False
    logged: frozenset[tuple[str, int]] = frozenset()

    def steps(self) -> frozenset[int]:
        """The epochs that an earlier attempt logged; whoever logs them again may skip these."""
        return frozenset(step for name, step in self.logged if name == _EVERY_EPOCH)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log figures, but not again what an earlier attempt logged for this step.

        Characters that MLflow refuses in a name, as from a class's, become '_'.
        """
        new = {name: value for name, value in metrics.items() if (store.key(name), step) not in self.logged}
        store.log(self.client, self.run_id, metrics=new, step=step)

    def log_artifacts(self, *paths: Path) -> None:
        """File each file or folder under its path relative to the project."""
        for path in paths:
            assert path.exists(), path
            place = path.relative_to(Path.cwd()) if path.is_absolute() else path
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), place.as_posix())
            else:
                folder = place.parent.as_posix()
                self.client.log_artifact(self.run_id, str(path), None if folder == "." else folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        store.log(self.client, self.run_id, tags=tags)

    @contextmanager
    def child(self, name: str, params: Mapping[str, object]) -> Iterator["StageRun"]:
        """A run beneath this one. A pruned trial ends FINISHED with the tag `pruned`."""
        tags = {lineage.PARENT: self.run_id, **lineage.owner()}
        opened = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        run = StageRun(opened.info.run_id, self.run_id, self.experiment_id, self.client)
        with _ended(self.client, run.run_id):
            _log_params(run, params)
            yield run


@contextmanager
def stage(name: str, params: Params, inputs: Sequence[Path]) -> Iterator[StageRun]:
    """Open the run of a stage; close it as FINISHED, FAILED or KILLED, and its parent likewise.

    On success `runs/<name>.json` says which run wrote the stage's outputs, and their hashes. One that tune, train or
    finetune left unfinished, with the same inputs, parameters and code, is gone on with. The run of an on-demand stage
    stands beneath the line's parent, whose status is the line's own and stays; or beneath a parent that it makes.

    Args:
        name: one of `lineage.STAGES`, or of `lineage.ON_DEMAND`.
        params: the sections the stage read, `tracking` among them.
        inputs: the files and folders it reads; their hashes are checked and logged.

    Raises:
        UserError: where an input is not as an earlier stage wrote it, or the store cannot be opened.
    """
    # The watchdog first of all: importing mlflow takes seconds in which one may be killed.
    with watchdog.guard() as guard, locks.alone(name):
        with Console().status("hashing what the stage reads"):
            hashes = checks.input_hashes(name, inputs)
        with resume.kept(name, params, hashes) as kept, _opened(name, params, hashes, kept, guard) as run:
            yield run
            with Console().status("hashing what the stage wrote"):
                outputs = checks.output_hashes(name)
            artifacts.write_run(artifacts.RunRecord(name, run.run_id, run.parent_id, run.inputs, outputs))


@contextmanager
def _opened(
    name: str, params: Params, inputs: dict[str, str], kept: resume.Kept | None, guard: watchdog.Guard
) -> Iterator[StageRun]:
    """The run of the stage, beneath its parent: the one of `kept` where that can be gone on with, else a new one."""
    with Console().status("opening MLflow"):
        client = store.connect()
    experiment_id = store.experiment(client, params.tracking.experiment)
    guard.watch(experiment_id, lineage.owner()[lineage.PROCESS])
    lineage.close_abandoned(client, experiment_id)
    left = lineage.left(client, experiment_id, kept.run_id, kept.parent_id) if kept else None
    with ExitStack() as opening:
        opening.callback(_close_own, client, experiment_id)
        with _parent(client, experiment_id, name, left) as parent_id:
            run = _begin(client, experiment_id, name, parent_id, left)
            if kept:
                kept.remember(run.run_id, parent_id)
                run = replace(run, resume=kept.folder)
            run = replace(run, inputs=inputs)
            with _ended(client, run.run_id):
                _log_given(run, params, left.run.data.params if left else {})
                opening.pop_all()  # from here on, who made a run closes it
                yield run


def _begin(
    client: "MlflowClient", experiment_id: str, name: str, parent_id: str, left: lineage.Left | None
) -> StageRun:
    """The run that was left, now RUNNING again, or a new one."""
    if left is None:
        opened = client.create_run(experiment_id, tags=_stage_tags(name, parent_id), run_name=name)
        return StageRun(opened.info.run_id, parent_id, experiment_id, client)
    run_id = left.run.info.run_id
    lineage.go_on(client, left.run)
    return StageRun(run_id, parent_id, experiment_id, client, resumed=True, logged=store.logged(client, run_id))


def _close_own(client: "MlflowClient", experiment_id: str) -> None:
    """Close what this process has opened: a signal may come between MLflow's making a run and its telling us."""
    with suppress(Exception):  # a store that fails now must not hide why the stage failed
        lineage.close_abandoned(client, experiment_id, ended=lineage.owner()[lineage.PROCESS])


@contextmanager
def _parent(client: "MlflowClient", experiment_id: str, stage: str, left: lineage.Left | None) -> Iterator[str]:
    """The id of the parent's run, which ends as the block does, but for that of the line under an on-demand stage."""
    if left:
        parent = left.parent
        lineage.reopen(client, parent)
    else:
        opens = lineage.open_beside if stage in lineage.ON_DEMAND else lineage.open_parent
        parent = opens(client, experiment_id, stage)
    if stage in lineage.ON_DEMAND and lineage.ASKED not in parent.data.tags:
        yield parent.info.run_id
        return
    with _ended(client, parent.info.run_id):
        lineage.link_reused(client, parent, stage)
        yield parent.info.run_id


@contextmanager
def _ended(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Give the run the status that the block's ending calls for."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # a store that fails now must not hide why the stage failed
            status, tags = _outcome(error)
            client.set_terminated(run_id, status)
            store.log(client, run_id, tags=tags)
        raise
    client.set_terminated(run_id, "FINISHED")


def _outcome(error: BaseException) -> tuple[str, dict[str, str]]:
    """Status and tags for a run that ended in `error`."""
    if type(error).__name__ == "TrialPruned":  # optuna's, known by its name so as not to import optuna
        return "FINISHED", {"pruned": "true"}
    tags = {lineage.ERROR: f"{type(error).__name__}: {error}"}
    return ("FAILED" if isinstance(error, Exception) else "KILLED"), tags


def _stage_tags(name: str, parent_id: str) -> dict[str, str]:
    return {
        lineage.PARENT: parent_id,
        lineage.STAGE: name,
        "mlflow.source.name": f"pipeline/{name}.py",
        "dvc.stage": os.environ.get("DVC_STAGE") or name,
        **lineage.provenance(),
    }


def _log_given(run: StageRun, params: Params, known: Mapping[str, str]) -> None:
    """What went in: every parameter as resolved, but for those `known` from before, and every input with its hash."""
    given = _flat(params.resolved())
    _log_params(run, {name: value for name, value in given.items() if store.key(name) not in known})
    store.log_inputs(run.client, run.run_id, run.inputs)
    run.set_tags({f"input.{path}": digest for path, digest in run.inputs.items()})
    _log_json(run, "params.json", params.resolved())
    _log_json(run, "inputs.json", run.inputs)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _log_params(run: StageRun, params: Mapping[str, object]) -> None:
    store.log(run.client, run.run_id, params={name: _shown(value) for name, value in params.items()})


def _shown(value: object) -> str:
    """As text, cut where MLflow would refuse it; a stage's params.json has it whole."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= store.MAX_VALUE else text[: store.MAX_VALUE - len(_CUT)] + _CUT


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return redacted(value) if isinstance(value, str) else value


def _log_json(run: StageRun, name: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        artifacts.write_json(Path(scratch) / name, _without_secrets(value))
        run.client.log_artifact(run.run_id, str(Path(scratch) / name))
