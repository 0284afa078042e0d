"""One model, 200 test images, and one answer: from evaluate, predict, serve and MLflow's own server."""

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import servers
from tests.contract.closure import ROOT
from tests.line.conftest import CLASSES, SMALL
from tests.project import Project, begin
from transferline.artifacts import Predictions, read_predictions

MODEL = "models:/transferline@champion"
STORE = {"MLFLOW_TRACKING_URI": "sqlite:///mlruns/mlflow.db"}  # as the README gives it
TEST_IMAGES = 200
AT_ONCE = 25  # images in a request
CLOSE = 1e-4  # of a probability
PARAMS: dict[str, dict[str, Any]] = {
    **SMALL,
    "model": {"backbone": "small_cnn", "weights": "none", "input_size": 32},
    "augment": {**SMALL["augment"], "audit": "off"},
    "tune": {"trials": 0, "start": {"lr": 0.003, "batch_size": 16, "freeze_depth": 0}},
    "finetune": {"epochs": 8, "batchnorm": "train"},  # whose weights are random
}


def make_split(folder: Path) -> None:
    """A split of the user's own. One channel is brighter, at times by less than what all of them vary by."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 96), ("val", 48), ("test", TEST_IMAGES)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            channel = number % 3
            pixels = rng.integers(0, 120, (*rng.integers(33, 80, 2), 3), dtype=np.uint8)
            pixels += rng.integers(0, 70, 3, dtype=np.uint8)
            pixels[..., channel] += rng.integers(0, 60, dtype=np.uint8)
            file = folder / split / CLASSES[channel] / f"{number:03d}.{('png', 'jpg', 'bmp')[number % 4 % 3]}"
            Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The line after its first `dvc repro` on such images."""
    project = begin(tmp_path_factory.mktemp("served"), make_split, PARAMS)
    project.dvc("repro")
    return project


@pytest.fixture(scope="module")
def evaluated(line: Project) -> Predictions:
    return read_predictions(line.root / "reports/evaluate/predictions.parquet")


@pytest.fixture(scope="module")
def files(line: Project, evaluated: Predictions) -> list[Path]:
    return [line.root.parent / "images" / path for path in evaluated.paths]


@pytest.fixture(scope="module")
def mlflow_server(line: Project) -> Iterator[str]:
    """`mlflow models serve` as the README starts it: its address."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local"]
    with started(line, command, "/ping") as address:
        yield address


@pytest.fixture(scope="module")
def server(line: Project) -> Iterator[str]:
    """`transferline serve`: its address."""
    with started(line, ["transferline", "serve", MODEL], "/readyz") as address:
        yield address


@contextmanager
def started(line: Project, command: Sequence[str], ready: str) -> Iterator[str]:
    port, log = servers.free_port(), line.root.parent / f"{Path(command[0]).name}.log"
    given = [*command, "--port", str(port)]
    with servers.running(given, port, ready, log, line.environment | STORE, line.root):
        yield f"http://{servers.HOST}:{port}"


def by_predict(line: Project, files: list[Path]) -> list[dict[str, Any]]:
    done = line.run("transferline", "predict", MODEL, *map(str, files), "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(row) for row in done.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == [str(file) for file in files]
    return answers


def by_serve(address: str, files: list[Path]) -> list[dict[str, Any]]:
    parts = [("files", (file.name, file.read_bytes())) for file in files]
    return _answered(httpx.post(f"{address}/predict", files=parts, timeout=180))


def by_mlflow(address: str, files: list[Path]) -> list[dict[str, Any]]:
    inputs = [base64.b64encode(file.read_bytes()).decode() for file in files]
    return _answered(httpx.post(f"{address}/invocations", json={"inputs": inputs}, timeout=180))


def _answered(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def _in_parts(files: list[Path]) -> Iterator[list[Path]]:
    for start in range(0, len(files), AT_ONCE):
        yield files[start : start + AT_ONCE]


def test_the_answers_differ_from_image_to_image(evaluated: Predictions) -> None:
    """Or that they are the same everywhere would say nothing."""
    assert len(evaluated.paths) == TEST_IMAGES
    counts = [evaluated.predicted.count(name) for name in evaluated.classes]
    assert min(counts) > TEST_IMAGES / 10
    assert evaluated.probabilities.std(axis=0).min() > 0.1
    assert len({round(float(value), 4) for value in evaluated.probabilities[:, 0]}) > TEST_IMAGES / 2


def test_evaluate_predict_serve_and_mlflow_answer_alike(
    line: Project, evaluated: Predictions, files: list[Path], server: str, mlflow_server: str
) -> None:
    answers = {
        "predict": by_predict(line, files),
        "serve": [answer for part in _in_parts(files) for answer in by_serve(server, part)],
        "mlflow": [answer for part in _in_parts(files) for answer in by_mlflow(mlflow_server, part)],
    }
    for asked, given in answers.items():
        assert [answer["class"] for answer in given] == evaluated.predicted, asked
        found = np.array([[answer["probabilities"][name] for name in evaluated.classes] for answer in given])
        assert np.abs(found - evaluated.probabilities).max() <= CLOSE, asked
        assert [answer["probability"] for answer in given] == found.max(axis=1).tolist(), asked


def test_the_readmes_request_is_answered(
    evaluated: Predictions, files: list[Path], mlflow_server: str, tmp_path: Path
) -> None:
    """Its first command makes the body, and curl is played by httpx."""
    (tmp_path / "photo.jpg").write_bytes(files[0].read_bytes())
    body, _, request = readme_block("mlflow-request").partition("|\n")
    made = subprocess.run(["bash", "-c", body], cwd=tmp_path, capture_output=True, check=True)
    curl, address, option, header, *data = shlex.split(request)
    assert (curl, option, data) == ("curl", "-H", ["--data-binary", "@-"])
    assert address.startswith("http://127.0.0.1:5000/")
    kind = dict([header.split(": ")])
    response = httpx.post(address.replace("http://127.0.0.1:5000", mlflow_server), content=made.stdout, headers=kind)
    assert [answer["class"] for answer in _answered(response)] == evaluated.predicted[:1]


def readme_block(marker: str) -> str:
    """The fenced block after a comment of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"README.md has no fenced block after the comment <!-- {marker} -->"
    return found[1]
