"""A folder to work in, and the line of the benchmark that kills it, run once undisturbed."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.kill_line import PARAMS, make_images
from tests.project import Project, begin
from tests.repro import Repro


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, taken for a project's root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@dataclass(frozen=True)
class Whole:
    """An undisturbed line, and how many seconds each of its stages took."""

    project: Project
    seconds: dict[str, float]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    project = begin(tmp_path_factory.mktemp("whole"), make_images, PARAMS)
    line = Repro(project)
    assert line.ends() == 0, line.text
    ended = [began for _, began in line.began[1:]] + [line.ended]
    return Whole(project, {stage: end - began for (stage, began), end in zip(line.began, ended, strict=True)})
