"""Where the time of a training step goes, by freeze depth: what the cache spares, and what is left.

    uv run python -m benchmarks.step [--backbone efficientnet_lite0] [--batch 32] [--depths 0 3 6 9]

Eager torch in channels_last, as in training; the medians of some steps on random images. A step is also timed as it is
where freed memory goes back to the system (`transferline.model.memory`). Operators are those of the profiler of torch,
by the time that they take themselves.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from transferline.artifacts import ModelCard
from transferline.model import backbones, classifier, memory
from transferline.model.classifier import Classifier, Suffix
from transferline.model.engines import Prefix

REPEATS = 3
CLASSES = 10
SHOWN = 5  # operators


class Step:
    """One step of the blocks above a freeze depth."""

    def __init__(self, net: Classifier, depth: int, images: torch.Tensor) -> None:
        net.freeze(depth)
        net.train().to(memory_format=torch.channels_last)
        self.images, self.prefix, self.suffix = images, Prefix(net, [depth]) if depth else None, Suffix(net)
        self.labels = torch.arange(len(images)) % CLASSES
        self.optimizer = torch.optim.AdamW(self.suffix.parameters(), 1e-4)
        given = self.frozen() if self.prefix else net.normalise(images.permute(0, 3, 1, 2).float())
        self.given = given.clone().contiguous(memory_format=torch.channels_last)

    def frozen(self) -> torch.Tensor:
        with torch.no_grad():
            return self.prefix(self.images)[0] if self.prefix else self.images

    def forward(self) -> None:
        self.loss = torch.nn.functional.cross_entropy(self.suffix(self.given), self.labels)

    def backward(self) -> None:
        self.loss.backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def trained(self) -> None:
        self.forward()
        self.backward()
        self.update()


def milliseconds(*parts: Callable[[], object]) -> list[float]:
    """Of each part, the median over rounds in which all are run in order; a first round warms up."""
    rounds = []
    for _ in range(1 + REPEATS):
        marks = [time.perf_counter()]
        for part in parts:
            part()
            marks.append(time.perf_counter())
        rounds.append([1000 * (after - before) for before, after in itertools.pairwise(marks)])
    return [median(times) for times in zip(*rounds[1:], strict=True)]


def operators(step: Step) -> dict[str, float]:
    """Share of the step's time by operator, the greatest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step.trained()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    return {event.key.removeprefix("aten::"): event.self_cpu_time_total / whole for event in events[:SHOWN]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--depths", type=int, nargs="+", help="default: all")
    options = parser.parse_args()
    spec = backbones.spec(options.backbone)
    print(f"step: {options.batch} images through {options.backbone}", flush=True)
    torch.set_flush_denormal(True)
    card = ModelCard(
        options.backbone, [*map(str, range(CLASSES))], spec.input_size, "squash", list(spec.mean), list(spec.std), 0.2
    )
    images = torch.randint(0, 256, (options.batch, spec.input_size, spec.input_size, 3), dtype=torch.uint8)
    with patch.object(memory, "keep_freed"):  # not yet
        net = classifier.build(card, "pretrained", seed=0)
    depths = options.depths or range(spec.depth + 1)
    before = {
        depth: milliseconds(Step(net, depth, images).trained)[0]
        for depth in track(depths, description="memory given back")
    }
    memory.keep_freed()
    heads = ("freeze depth", "frozen (spared)", "forward", "backward", "update", "memory given back", "operators")
    table = Table(*heads, box=MARKDOWN, title="milliseconds")
    for depth in track(depths, description="memory kept"):
        step = Step(net, depth, images)
        times = milliseconds(step.frozen, step.forward, step.backward, step.update)
        shares = ", ".join(f"{name} {share:.0%}" for name, share in operators(step).items())
        slower = f"{before[depth]:.0f} ({before[depth] / sum(times[1:]):.2f} times the step)"
        table.add_row(str(depth), *(f"{took:.0f}" for took in times), slower, shares)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
