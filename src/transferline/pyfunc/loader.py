"""MLflow's loader of a registered model: images as base64 or arrays in, the answers of `transferline predict` out."""

import json
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from transferline.deploy import answers
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.pyfunc import requests


class Refusal(MlflowException):
    """What MLflow's server answers with an error's status, and with the reason alone."""

    def serialize_as_json(self) -> str:
        """Without `message`, in front of which the server has put the whole request, be it megabytes of base64."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})


class Model:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: Any) -> list[dict[str, Any]]:
        """The answer for each image, as `answers.Answer.as_json` has it.

        Args:
            model_input: what `requests.read` takes.

        Raises:
            Refusal: INVALID_PARAMETER_VALUE (400) where it holds something else than images.
        """
        try:
            batches = requests.batches(requests.read(model_input))
            rows = [row for batch in batches for row in self._predictor.predict(batch)]
        except requests.RequestError as error:
            raise Refusal(str(error), INVALID_PARAMETER_VALUE) from None
        except UserError:  # whose message names files of the server
            raise Refusal("the model cannot be run on these images", INTERNAL_ERROR) from None
        return [answers.answer(self._predictor, row).as_json() for row in rows]


def _load_pyfunc(path: str) -> Model:
    """Called by MLflow, with the path of the ONNX file."""
    return Model(Predictor(Path(path)))
