"""What many tests need: small separable arrays and a recorder that keeps what it is told."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers share two cores

import numpy as np
import pytest

from transferline.artifacts import Arrays


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="keep the numbers seen as tests/golden's own")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Say which tests `pytest` alone has left out, where it ran to its end and nothing else chose the tests."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and selects_by_default(config):
        terminalreporter.write_line(f"left to .ci/run: {', '.join(left_out(config))}")


def selects_by_default(config: pytest.Config) -> bool:
    others = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "collectonly")
    in_testpaths = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    as_set = config.option.markexpr == default_markers(config)
    return in_testpaths and as_set and not any(config.getoption(name, None) for name in others)


def default_markers(config: pytest.Config) -> str:
    """The expression after -m in the settings' addopts."""
    options = config.getini("addopts")
    return options[options.index("-m") + 1]


def left_out(config: pytest.Config) -> list[str]:
    """The markers that the settings leave out, and the folders of tests that no path of `testpaths` is in."""
    markers = re.findall(r"not (\w+)", default_markers(config))
    run = {Path(path) for path in config.getini("testpaths")}
    files = (path.relative_to(config.rootpath) for path in (config.rootpath / "tests").rglob("test_*.py"))
    folders = {file.parent.as_posix() for file in files if not run & {file, *file.parents}}
    return [f"tests marked {name}" for name in markers] + sorted(folders)


@pytest.fixture(autouse=True)
def child_processes_end_unnoticed() -> Iterator[None]:
    """torch's DataLoader leaves a handler of SIGCHLD behind, which must not meet the processes of later tests.

    Python 3.11 crashed in it, after torch.export.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@dataclass
class ListRecorder:
    """A run that keeps its metrics and children in lists."""

    run_id: str = "run"
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    children: list[tuple[str, dict[str, object], "ListRecorder"]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.metrics.append((step, dict(metrics)))

    def steps(self) -> set[int]:
        return {step for step, _ in self.metrics}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags

    @contextmanager
    def child(self, name: str, params: Mapping[str, object]) -> Iterator["ListRecorder"]:
        run = ListRecorder(name)
        self.children.append((name, dict(params), run))
        yield run


@pytest.fixture
def recorder() -> ListRecorder:
    return ListRecorder()


def coloured(count: int, views: int = 1, side: int = 32, seed: int = 0) -> Arrays:
    """Noise in which each of three classes has one bright channel: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 120, (count, views, side, side, 3), dtype=np.uint8)
    images[np.arange(count), ..., labels] += 100
    return Arrays(images, labels, [f"{row}.png" for row in range(count)], ["blue", "green", "red"])


@pytest.fixture(scope="session")
def colour_arrays() -> Callable[..., Arrays]:
    return coloured
