"""Where runs are kept, and the names MLflow accepts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transferline.errors import UserError
from transferline.tracking import store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def test_importing_tracking_imports_no_mlflow_and_touches_nothing(tmp_path):
    code = "import sys, transferline.tracking; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_store_lies_in_the_repository_that_dvc_names(project, root):
    assert store.uri() == f"sqlite:///{root}/mlruns/mlflow.db"
    assert Path(f"{root}/mlruns/mlflow.db").exists()
    assert not Path("mlruns").exists()


def test_without_dvc_the_store_lies_in_the_working_folder(project, tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT")
    assert store.uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"


def test_users_own_address_overrides(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert store.uri() == "http://tracking.example"


def test_an_address_mlflow_cannot_open_is_the_users_to_mend(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        store.connect()


def test_artifacts_lie_beside_the_database_by_an_absolute_address(project, root):
    experiment_id = store.experiment(project.client, "my images/1")
    location = project.client.get_experiment(experiment_id).artifact_location
    assert location == f"file://{root}/mlruns/artifacts/my%20images%252F1"
    assert store.experiment(project.client, "my images/1") == experiment_id


def test_a_deleted_experiment_is_the_users_to_restore(project):
    experiment_id = store.experiment(project.client, "gone")
    project.client.delete_experiment(experiment_id)
    with pytest.raises(UserError, match=f"restore -x {experiment_id}"):
        store.experiment(project.client, "gone")


@pytest.mark.parametrize("setting", [None, "false"])
def test_telemetry_is_off_unless_the_user_says_otherwise(project, monkeypatch, setting):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "placeholder")  # so that monkeypatch restores what connect sets
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    if setting:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", setting)
    store.connect()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == (setting or "true")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("per_class/tabby cat/f1", "per_class/tabby cat/f1"),
        ("a@b[c]%", "a_b_c__"),
        ("/root//x/", "root/x"),
        ("../x/./y", "x/y"),
        ("..", "_"),
        ("", "_"),
        ("Größe", "Größe"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_become_acceptable_to_mlflow(name, key):
    assert store.key(name) == key
