"""An ONNX file as an MLflow model: a folder with two flavours over the one file.

`onnx`, and `python_function`, which takes images as base64 or arrays and answers as `transferline predict` does, with
code that it brings along.
"""

import base64
import io
import logging
import shutil
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import transferline
from transferline import seal
from transferline.artifacts import readable
from transferline.tracking import store

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # in the order they are tried


def load(path: Path) -> Any:
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


def save(
    model: Any, onnx_path: Path, folder: Path, loader: str, *, run_id: str | None = None, model_id: str | None = None
) -> None:
    """Write the folder.

    Args:
        model: what `load` gave of `onnx_path`.
        loader: the module of this package with MLflow's `_load_pyfunc`.
    """
    saved = _save_onnx(model, folder, run_id, model_id)
    shutil.copyfile(onnx_path, folder / saved.flavors["onnx"]["data"])  # to the byte: a version's tags have its hash
    package = Path(transferline.__file__).parent
    shutil.copytree(package, folder / "code" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    saved.flavors["python_function"] |= {"loader_module": loader, "code": "code"}
    saved.save(folder / "MLmodel")


def example() -> list[str]:
    """A request: one image of 16 x 16 greys, as base64; small, since MLflow keeps and shows it as text."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(content, "PNG")
    return [base64.b64encode(content.getvalue()).decode()]


def requirements() -> list[str]:
    """What serving the model needs, pinned to what is installed here."""
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    runtime = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else "onnxruntime"
    return [f"{package}=={metadata.version(package)}" for package in ("onnx", runtime, "numpy", "pillow")]


def _save_onnx(model: Any, folder: Path, run_id: str | None, model_id: str | None) -> "Model":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing mlflow.pyfunc warns of type hints in MLflow's own code
        import mlflow.onnx
        import mlflow.pyfunc
    from mlflow.models import Model

    saved = Model(run_id=run_id, model_id=model_id)
    with store.quiet("mlflow.utils.environment", logging.ERROR):  # it misses pip, which uv does without
        mlflow.onnx.save_model(
            model,
            folder,
            mlflow_model=saved,
            signature=_signature(model),
            input_example=example(),
            pip_requirements=requirements(),
            onnx_execution_providers=PROVIDERS,
            save_as_external_data=False,  # one file, as it was checked
        )
    return saved


def _signature(model: Any) -> "ModelSignature":
    """The columns of an answer.

    The input has none: MLflow would press all input into one type, and arrays do not fit where texts do.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Map

    several = "thresholds" in {entry.key for entry in model.metadata_props}
    one = [ColSpec(DataType.string, "class"), ColSpec(DataType.double, "probability")]
    said = [ColSpec(Array(DataType.string), "labels")] if several else one
    return ModelSignature(outputs=Schema([*said, ColSpec(Map(DataType.double), "probabilities")]))
