"""A copy of the project in a temporary folder: for tests and benchmarks that run the whole line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.contract.closure import ROOT


@dataclass(frozen=True)
class Project:
    """A clone in a temporary folder, with commands that see nothing of the user's settings."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """With one thread, so that two lines may run at once and their sums stay the same."""
        scratch = self.root.parent / "scratch"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
        return environment | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(scratch / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(scratch / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(scratch / "system"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "MPLCONFIGDIR": str(scratch / "matplotlib"),
        }

    def run(self, *command: str, **further: str) -> subprocess.CompletedProcess[str]:
        """`further` variables of the environment go before the others."""
        environment = self.environment | further
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def dvc(self, *arguments: str) -> str:
        """The output of a dvc command that must succeed."""
        done = self.run(sys.executable, "-m", "dvc", *arguments)
        assert done.returncode == 0, f"dvc {' '.join(arguments)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        done = self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)


def ran(output: str) -> list[str]:
    """The stages that a dvc command ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def copy_project(target: Path) -> None:
    """What a clone of the working tree would hold."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name not in ("dvc.lock", "reports/evaluate/metrics.json"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def set_params(path: Path, changes: dict[str, Any]) -> None:
    """Keys of sections are added to those that are there."""
    yaml = YAML()
    document = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        if isinstance(values, dict):
            document.setdefault(section, {}).update(values)
        else:
            document[section] = values
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)


def begin(folder: Path, make: Callable[[Path], None], params: dict[str, dict[str, Any]]) -> Project:
    """A project in `folder`, committed, on the images that `make` puts beside it."""
    project = Project(folder / "project")
    make(folder / "images")
    copy_project(project.root)
    data = {"root": str(folder / "images"), **params.get("data", {})}
    set_params(project.root / "params.yaml", {**params, "data": data})
    project.git("init", "--quiet")
    project.commit("Begin")
    return project
