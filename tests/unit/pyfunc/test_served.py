"""A saved model in MLflow's own scoring server, and where the project is not installed."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.unit import tiny
from transferline.deploy import answers
from transferline.deploy.predictor import Predictor
from transferline.pyfunc import loader
from transferline.tracking import flavours

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
Ask = Callable[..., tuple[int, Any]]


def text(pixels: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


TEXTS = [text(image) for image in PIXELS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model."""
    root = tmp_path_factory.mktemp("saved")
    tiny.write(root / "tiny.onnx")
    flavours.save(flavours.load(root / "tiny.onnx"), root / "tiny.onnx", root / "model", loader.__name__)
    return root / "model"


@pytest.fixture(scope="module")
def ask(saved: Path) -> Iterator[Ask]:
    """Post to /invocations: status and answer."""
    from mlflow.pyfunc import load_model, scoring_server  # warns on import, unless `save` has imported it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])  # MLflow puts the code of the model there
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        client = TestClient(scoring_server.init(load_model(str(saved))))

        def post(body: Any, kind: str = "application/json") -> tuple[int, Any]:
            content = body if isinstance(body, str) else json.dumps(body)
            answer = client.post("/invocations", content=content, headers={"Content-Type": kind})
            return answer.status_code, answer.json()

        yield post


@pytest.fixture(scope="module")
def expected(saved: Path) -> list[dict[str, Any]]:
    predictor = Predictor(saved / "model.onnx")
    return [answers.answer(predictor, row).as_json() for row in predictor.predict(PIXELS)]


ROWS = [{"image": one} for one in TEXTS]
REQUESTS: dict[str, Any] = {
    "inputs": {"inputs": TEXTS},
    "instances": {"instances": TEXTS},
    "inputs by name": {"inputs": {"image": TEXTS}},
    "instances by name": {"instances": ROWS},
    "input rows": {"inputs": ROWS},
    "split": {"dataframe_split": {"columns": ["image"], "data": [[one] for one in TEXTS]}},
    "records": {"dataframe_records": ROWS},
    "arrays": {"inputs": PIXELS.tolist()},
    "array instances": {"instances": PIXELS.tolist()},
    "arrays by name": {"inputs": {"images": PIXELS.tolist()}},
    "array records": {"dataframe_records": [{"image": image.tolist()} for image in PIXELS]},
}


@pytest.mark.parametrize("form", REQUESTS)
def test_a_request_in_any_form_is_answered_as_predict_answers(ask: Ask, expected: list[Any], form: str) -> None:
    assert len({answer["class"] for answer in expected}) == 2
    assert ask(REQUESTS[form]) == (200, {"predictions": expected})


def test_a_table_as_csv_is_answered(ask: Ask, expected: list[Any]) -> None:
    assert ask("\n".join(["image", *TEXTS]), "text/csv") == (200, {"predictions": expected})


def test_images_of_several_sizes_are_answered_in_their_order(ask: Ask, saved: Path) -> None:
    sizes = [PIXELS[0], PIXELS[1, :3], PIXELS[2], PIXELS[0, :, :2]]
    alone = [ask({"inputs": [text(image)]})[1]["predictions"][0] for image in sizes]
    assert ask({"inputs": [text(image) for image in sizes]}) == (200, {"predictions": alone})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [TEXTS[0], "aGFsbG8="]}, "image 1: not an image"),
        ({"inputs": ["#" * 100_000]}, "image 0: its base64 cannot be decoded: Only base64 data is allowed"),
        ({"inputs": [None]}, "image 0: it is neither base64 text nor an array, but NoneType"),
        ({"inputs": [[[[256, 0, 0]]]]}, "image 0: its pixels are not whole numbers from 0 to 255"),
        ({"inputs": {"img": TEXTS}}, "images are looked for under 'image', and there is: img"),
        ({"instances": [ROWS[0], {"x": TEXTS[0]}]}, "images are looked for under 'image', and there is: image, x"),
    ],
)
def test_a_wrong_request_is_answered_with_the_reason_alone(ask: Ask, body: Any, message: str) -> None:
    assert ask(body) == (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": message})


@pytest.mark.parametrize("body", ["nonsense", TEXTS, {"images": TEXTS}, {"inputs": [PIXELS[0].tolist(), TEXTS[0]]}, {}])
def test_what_mlflow_itself_refuses_has_no_trace_either(ask: Ask, body: Any) -> None:
    status, answer = ask(body)
    assert status == 400
    assert "Traceback" not in str(answer)
    assert "stack_trace" not in answer


def test_a_model_that_cannot_be_run_does_not_tell_where_it_lies(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loader._load_pyfunc(str(saved / "model.onnx"))
    monkeypatch.setattr(model._predictor._session, "run", lambda *_: 1 / 0)
    with pytest.raises(loader.Refusal) as caught:
        model.predict(PIXELS)
    assert caught.value.get_http_status_code() == 500
    assert str(saved) not in caught.value.serialize_as_json()


def test_labels_are_answered_where_an_image_may_have_several(tmp_path: Path) -> None:
    tiny.write(tmp_path / "tiny.onnx", thresholds="[0.25, 0.25]")
    flavours.save(flavours.load(tmp_path / "tiny.onnx"), tmp_path / "tiny.onnx", tmp_path / "model", loader.__name__)
    (answer,) = loader._load_pyfunc(str(tmp_path / "model" / "model.onnx")).predict(flavours.example())
    assert answer == {"labels": ["red", "green"], "probabilities": {"red": 0.5, "green": 0.5}}
    assert '"name": "labels"' in (tmp_path / "model" / "MLmodel").read_text(encoding="utf-8")


ELSEWHERE = """
import importlib.abc, sys
from pathlib import Path

absent = {"torch", "torchvision", "timm", "pytorch_lightning", "optuna", "dvc", "typer", "rich", "ruamel", "filelock",
          "onnx", "onnxscript", "safetensors", "imagehash", "conformal_clip_data", "cleanlab"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.path[:] = [place for place in sys.path if not (Path(place) / "transferline").is_dir()]
sys.meta_path.insert(0, Absent())
import mlflow.pyfunc

model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(model.input_example)[0]["probability"])
import transferline
print(Path(transferline.__file__).parent)
"""


def test_it_runs_where_the_project_is_not_installed(saved: Path, tmp_path: Path) -> None:
    """With mlflow and the requirements that the model names alone; `onnx` is for its other flavour."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, str(saved)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0.5", str(saved / "code" / "transferline")]
    named = (saved / "requirements.txt").read_text(encoding="utf-8")
    assert "torch" not in named
    assert all("==" in line for line in named.splitlines())
