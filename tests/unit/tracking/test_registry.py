"""A registered model loads by its alias, as an ONNX graph and as a function of images in any form."""

import sys
from pathlib import Path

import mlflow.onnx
import numpy as np
import pytest

from transferline import tracking
from transferline.deploy import answers
from transferline.deploy.predictor import Predictor
from transferline.pyfunc import loader
from transferline.tracking import flavours, store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def test_model_is_registered_aliased_loaded_and_used(project, monkeypatch, tiny_classifier):
    path, name = Path("model.onnx"), "tiny"
    tiny_classifier(path)
    before = path.read_bytes()
    with project.stage("register") as run:
        assert tracking.champion(run, name, "champion") is None
        first = tracking.register_model(run, path, name, {"macro_f1": "0.5"}, loader.__name__)
        assert tracking.champion(run, name, "champion") is None
        tracking.set_alias(run, name, "champion", first)
        second = tracking.register_model(run, path, name, {"macro_f1": "0.6"}, loader.__name__)
        assert (first, second) == ("1", "2")
        assert tracking.champion(run, name, "champion") == tracking.ModelVersion("1", {"macro_f1": "0.5"})
    assert path.read_bytes() == before
    assert project.run(run.run_id).info.status == "FINISHED"
    assert len(project.run(run.run_id).outputs.model_outputs) == 2

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri())
    monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow puts the code of the model there
    served = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    image = np.full((1, 5, 7, 3), (1, 2, 3), np.uint8)
    predictor = Predictor(path)
    assert served.predict(image) == [answers.answer(predictor, predictor.predict(image)[0]).as_json()]
    assert [answer["probability"] for answer in served.predict(served.input_example)] == [0.5]
    assert served.metadata.get_output_schema().input_names() == ["class", "probability", "probabilities"]
    assert set(served.metadata.flavors) == {"onnx", "python_function"}
    assert served.metadata.run_id == run.run_id
    assert [value.name for value in mlflow.onnx.load_model(f"models:/{name}@champion").graph.input] == ["images"]


def test_requirements_are_pinned():
    pinned = dict(requirement.split("==") for requirement in flavours.requirements())
    assert pinned["numpy"] == np.__version__
    assert {"pillow", "onnx"} < set(pinned)
    assert any(name.startswith("onnxruntime") for name in pinned)
