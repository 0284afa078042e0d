"""A scratch project whose runs go to one store for all tests, each test in an experiment of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.unit import tiny
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


@pytest.fixture
def tiny_classifier() -> Callable[[Path], None]:
    return tiny.write
