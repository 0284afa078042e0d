"""What many tests need: small separable arrays and a recorder that keeps what it is told."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: workers share two cores, and the sums stay the same

import numpy as np
import pytest

from transferline.artifacts import Arrays


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="keep the numbers seen as tests/golden's own")


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


@pytest.fixture(scope="session")
def colour_arrays() -> Callable[..., Arrays]:
    """Noise in which each of three classes has one bright channel: learnable in a few steps."""

    def make(count: int, views: int = 1, side: int = 32, seed: int = 0) -> Arrays:
        rng = np.random.default_rng(seed)
        labels = np.arange(count, dtype=np.int64) % 3
        images = rng.integers(0, 120, (count, views, side, side, 3), dtype=np.uint8)
        images[np.arange(count), ..., labels] += 100
        return Arrays(images, labels, [f"{row}.png" for row in range(count)], ["blue", "green", "red"])

    return make
