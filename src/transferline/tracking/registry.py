"""The model registry: an ONNX file becomes a version, and an alias points at the one to serve."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transferline import seal
from transferline.artifacts import readable
from transferline.tracking import store
from transferline.tracking.runs import StageRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # in the order they are tried


@dataclass(frozen=True)
class ModelVersion:
    """A version in the registry; its tags hold what the gate compares."""

    version: str
    tags: dict[str, str]


def register_model(run: StageRun, onnx_path: Path, name: str, tags: Mapping[str, str]) -> str:
    """Log the ONNX file as a model of `run` and register it; return the new version's number.

    Args:
        onnx_path: a model of one input, `images`, and the outputs `probabilities` and `logits`.
        name: of the registered model, made where there is none.
        tags: of the version.

    Raises:
        UserError: where the file is missing or damaged.
    """
    client, model = run.client, _loaded(onnx_path)
    logged = client.create_logged_model(run.experiment_id, name, source_run_id=run.run_id)
    with _finalized(client, logged.model_id), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _save(model, folder, run.run_id, logged.model_id)
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


def example_image() -> npt.NDArray[np.uint8]:
    """uint8 [1, 32, 32, 3], a ramp of greys: small, since MLflow keeps it as text to try a server with."""
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(ramp[None, None, :, None], (1, 32, 32, 3)))


def requirements() -> list[str]:
    """What serving the model needs, pinned to what is installed here."""
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    runtime = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else "onnxruntime"
    return [f"{package}=={metadata.version(package)}" for package in ("onnx", runtime, "numpy", "pillow")]


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


def _loaded(path: Path) -> Any:
    """The graph with its weights, as a ModelProto. Raises UserError where it is none."""
    import onnx

    with readable(path):
        if not seal.intact(path):
            raise ValueError("it is not what was exported")
        try:
            model = onnx.load(path)
            onnx.checker.check_model(model)
        except OSError:
            raise
        except Exception as error:  # protobuf's and onnx's own have no other base class
            raise ValueError(next(iter(str(error).splitlines()), "it is no ONNX model")) from None
    return model


def _save(model: Any, folder: Path, run_id: str, model_id: str) -> None:

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing mlflow.pyfunc warns of type hints in MLflow's own code
        import mlflow.onnx
        import mlflow.pyfunc
    from mlflow.models import Model

    with store.quiet("mlflow.utils.environment", logging.ERROR):  # it misses pip, which uv does without
        mlflow.onnx.save_model(
            model,
            folder,
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=_signature(model),
            input_example=example_image(),
            pip_requirements=requirements(),
            onnx_execution_providers=PROVIDERS,
            save_as_external_data=False,  # one file, as it was checked
        )


def _signature(model: Any) -> "ModelSignature":
    """uint8 [-1, -1, -1, 3] -> each output by its name, float32 [-1, classes]."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    images = TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float32"), (-1, output.type.tensor_type.shape.dim[1].dim_value or -1), output.name)
        for output in model.graph.output
    ]
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))


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
