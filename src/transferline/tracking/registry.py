"""The model registry: an ONNX file becomes a version, and an alias points at the one to serve."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transferline.tracking import flavours
from transferline.tracking.runs import StageRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ModelVersion:
    """A version in the registry; its tags hold what the gate compares."""

    version: str
    tags: dict[str, str]


def register_model(run: StageRun, onnx_path: Path, name: str, tags: Mapping[str, str], loader: str) -> str:
    """Log the ONNX file as a model of `run` and register it; return the new version's number.

    Args:
        onnx_path: a model of one input, `images`, and the outputs `probabilities` and `logits`.
        name: of the registered model, made where there is none.
        tags: of the version.
        loader: the module of this package with MLflow's `_load_pyfunc`.

    Raises:
        UserError: where the file is missing or damaged.
    """
    client, model = run.client, flavours.load(onnx_path)
    logged = client.create_logged_model(run.experiment_id, name, source_run_id=run.run_id)
    with _finalized(client, logged.model_id), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        flavours.save(model, onnx_path, folder, loader, run_id=run.run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(folder))
    _relate(run, logged.model_id)
    _ensure_name(client, name)
    # by its place: a models:/ address would be looked up in MLflow's global store, not in the client's
    source, model_id = logged.artifact_location, logged.model_id
    version = client.create_model_version(name, source, run.run_id, dict(tags), model_id=model_id)
    return str(version.version)


def champion(run: StageRun, name: str, alias: str) -> ModelVersion | None:
    """The version that `alias` points at; None where there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        found = run.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise
    return ModelVersion(str(found.version), dict(found.tags))


def set_alias(run: StageRun, name: str, alias: str, version: str) -> None:
    run.client.set_registered_model_alias(name, alias, version)


@contextmanager
def _finalized(client: "MlflowClient", model_id: str) -> Iterator[None]:
    """Show a model as READY, or as FAILED where its files did not all get there."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # a store that fails now must not hide why the model failed
            client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")


def _ensure_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _relate(run: StageRun, model_id: str) -> None:
    """Show the model among the run's outputs."""
    from mlflow.entities import LoggedModelOutput

    run.client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step=0)])
