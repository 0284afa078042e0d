"""A scratch project whose runs go to one store for all tests, each test in an experiment of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from onnx import TensorProto, helper

from transferline import artifacts, config, sections, tracking
from transferline.tracking import store


@dataclass
class Project:
    experiment: str
    client: MlflowClient

    def params(self) -> config.Params:
        params = config.Params()
        params.seed = 1
        params.tracking = sections.Tracking(experiment=self.experiment)
        return params

    @contextmanager
    def stage(self, name: str, inputs: tuple[Path, ...] = ()) -> Iterator[tracking.StageRun]:
        with tracking.stage(name, self.params(), inputs) as run:
            yield run

    def passes(self, *names: str) -> artifacts.RunRecord:
        """Run stages that succeed; the record of the last."""
        for name in names:
            with self.stage(name) as run:
                run.log_metrics({"figure": len(name)})
        record = artifacts.read_run(names[-1])
        assert record is not None
        return record

    def fails(self, name: str, error: BaseException) -> tracking.StageRun:
        """Run a stage that ends in `error`."""
        with pytest.raises(type(error)), self.stage(name) as run:
            raise error
        return run

    def edit(self) -> None:
        """Come to a new state of the line."""
        path = Path("params.yaml")
        path.write_text(path.read_text() + "# edited\n")

    def run(self, run_id: str) -> Run:
        return self.client.get_run(run_id)

    def children(self, parent_id: str) -> dict[str, Run]:
        """The runs directly beneath a parent, by name."""
        experiment_id = self.run(parent_id).info.experiment_id
        found = self.client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent_id}'")
        return {run.info.run_name: run for run in found}

    def artifact(self, run_id: str, name: str) -> Path:
        return Path(self.run(run_id).info.artifact_uri.removeprefix("file://")) / name


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the store: its first migration takes seconds, so that it is made once."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "DVC_EXP_NAME", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Project:
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 1\n")
    return Project(tmp_path.name, store.connect())


def write_tiny_classifier(path: Path) -> None:
    """Two logits from the mean of the first two channels, and their softmax."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("probabilities", "logits")
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "first"], ["logits"], axis=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("first", TensorProto.INT64, [2], [0, 1]),
    ]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, constants)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)


@pytest.fixture
def tiny_classifier() -> Callable[[Path], None]:
    return write_tiny_classifier
