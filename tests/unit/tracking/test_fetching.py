"""A version of the registry becomes a file of the project, once."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.contract.closure import ROOT
from transferline import artifacts, tracking
from transferline.errors import UserError
from transferline.pyfunc import loader

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture
def registered(project, tiny_classifier) -> str:
    """The name of a model with versions 1, which is champion, and 2, whose hash is not among its tags."""
    name, path = project.experiment, Path("model.onnx")
    tiny_classifier(path)
    with project.stage("register") as run:
        first = tracking.register_model(run, path, name, {"onnx_sha256": artifacts.sha256(path)}, loader.__name__)
        tracking.register_model(run, path, name, {}, loader.__name__)
        tracking.set_alias(run, name, "champion", first)
    return name


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run pipeline/model.py: the lines it prints."""

    def run(version: str) -> list[str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["pipeline/model.py", version])
        runpy.run_path(str(ROOT / "pipeline" / "model.py"))["main"]()
        return capsys.readouterr().out.splitlines()

    return run


def cached(name: str, version: int) -> Path:
    return artifacts.project_root() / ".cache" / "models" / name / str(version) / "model.onnx"


def test_a_version_is_downloaded_once(registered: str, script) -> None:
    path = cached(registered, 1)
    lines = script(f"{registered}@champion")
    assert lines[0].startswith(f"model: looking for {registered}@champion in MLflow at sqlite:///")
    assert lines[1:] == [
        f"model: downloading version 1 of {registered}",
        f"model: {registered} version 1 -> {path}",
    ]
    assert path.read_bytes() == Path("model.onnx").read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert script(f"{registered}/1")[1:] == [lines[2]]


def test_a_file_that_is_another_models_is_replaced(registered: str, script) -> None:
    """As where the store was begun anew, and its numbers with it."""
    path = cached(registered, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of another store")
    assert len(script(f"{registered}/1")) == 3
    assert path.read_bytes() == Path("model.onnx").read_bytes()


def test_a_version_without_its_hash_is_downloaded_each_time(registered: str, script) -> None:
    assert [len(script(f"{registered}/2")) for _ in range(2)] == [3, 3]
    assert cached(registered, 2).read_bytes() == Path("model.onnx").read_bytes()


def test_a_name_alias_or_version_that_is_not_there_is_told_with_the_nearest(registered: str, script) -> None:
    for asked, found in {
        f"{registered}x@champion": f"has no model '{registered}x'\n  did you mean '{registered}'?",
        f"{registered}@champoin": "holds the alias 'champoin' in the registry of MLflow at sqlite:///",
        f"{registered}@x": "\n  choose one of: champion",
        f"{registered}/7": f"has no version 7 of '{registered}'\n  there are: 1, 2",
    }.items():
        with pytest.raises(UserError) as caught:
            script(asked)
        assert found in str(caught.value)


def test_without_alias_or_model_it_says_how_there_will_be_one(
    project, script, registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.client.delete_registered_model_alias(registered, "champion")
    with pytest.raises(UserError, match="none has an alias yet: one that passes the gate gets it"):
        script(f"{registered}@champion")
    for version in "12":
        project.client.delete_model_version(registered, version)
    with pytest.raises(UserError, match=r"has no version 1 of '.*'\n  'dvc repro' registers one"):
        script(f"{registered}/1")


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_file_that_the_store_lost_is_told(project, registered: str, script, how: str) -> None:
    stored = Path(project.client.get_model_version_download_uri(registered, "1").removeprefix("file://"), "model.onnx")
    content = bytearray(stored.read_bytes())
    content[20] ^= 1
    stored.unlink()
    if how == "damaged":
        stored.write_bytes(content)
    with pytest.raises(UserError, match=f"version 1 of '{registered}' cannot be fetched from MLflow at sqlite:///"):
        script(f"{registered}/1")
    assert not cached(registered, 1).parent.exists()


def test_a_server_that_does_not_answer_is_told(project, script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow cannot open http://127.0.0.1:9: connection refused"):
        script("transferline@champion")
