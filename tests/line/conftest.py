"""A copy of the project on small images made here, in which the whole line has run once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.contract.closure import ROOT

CLASSES = ("blue", "green", "red")
SMALL: dict[str, dict[str, Any]] = {
    "model": {"backbone": "mobilenet_v3_small", "weights": "none", "input_size": 32, "resize": "pad"},
    "augment": {"views": 1, "workers": 0},
    "tune": {"trials": 2, "epochs": 1, "search": {"batch_size": [16, 32], "lr": {"low": 1e-3, "high": 5e-3}}},
    "finetune": {"epochs": 2},
    "evaluate": {"bootstrap": 100},
    "export": {"batch_size": 4, "latency_repeats": 3},
    "register": {"min_macro_f1": 0.0, "max_ece": 1.0},
}


@dataclass(frozen=True)
class Project:
    """A clone in a temporary folder, with commands that see nothing of the user's settings."""

    root: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        scratch = self.root.parent / "scratch"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(scratch / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(scratch / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(scratch / "system"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "MPLCONFIGDIR": str(scratch / "matplotlib"),
        }
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


def make_images(folder: Path) -> None:
    """Each class has one bright channel; sizes and formats vary as a user's would, and one file is broken."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(14):
            pixels = rng.integers(0, 120, (rng.integers(40, 60), rng.integers(40, 60), 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.{('png', 'jpg')[number % 2]}")
    (folder / "red" / "broken.jpg").write_bytes(b"not an image")


def copy_project(target: Path) -> None:
    """What a clone of the working tree would hold."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name not in ("dvc.lock", "reports/evaluate/metrics.json"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def set_params(path: Path, changes: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    document = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        document.setdefault(section, {})
        document[section].update(values)
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


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The line after its first `dvc repro`, committed."""
    project = begin(tmp_path_factory.mktemp("line"), make_images, SMALL)
    project.dvc("repro")
    project.commit("Run the line")
    return project
