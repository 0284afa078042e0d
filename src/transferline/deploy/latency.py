"""How long the exported model takes for a batch, against the same module in torch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from transferline.artifacts import write_json
from transferline.deploy.export import Deployed
from transferline.deploy.predictor import Predictor

_BUDGET_SECONDS = 1.5  # an engine
_MIN_RUNS = 3
_WARMUP_RUNS = 2


@dataclass(frozen=True)
class Latency:
    """Seconds of each timed run at one batch size; both engines take numpy arrays and give numpy arrays."""

    batch_size: int
    onnx_seconds: list[float]
    torch_seconds: list[float]

    @property
    def onnx_median(self) -> float:
        return median(self.onnx_seconds)

    @property
    def torch_median(self) -> float:
        return median(self.torch_seconds)

    @property
    def speedup(self) -> float:
        """How many times faster than torch the exported model is."""
        return self.torch_median / self.onnx_median


def measure(
    predictor: Predictor, deployed: Deployed, image: npt.NDArray[np.uint8], batch_sizes: list[int], repeats: int
) -> list[Latency]:
    """Time both engines on copies of one image, uint8 [H, W, 3], on the device that the predictor runs on."""
    in_torch = torch_engine(deployed, predictor.device)
    measured = []
    for size in track(batch_sizes, description="timing ONNX against torch"):
        batch = np.repeat(image[np.newaxis], size, axis=0)
        seconds = interleaved(partial(predictor.predict, batch), partial(in_torch, batch), repeats)
        measured.append(Latency(size, *seconds))
    return measured


def interleaved(
    first: Callable[[], object], second: Callable[[], object], repeats: int, budget: float = _BUDGET_SECONDS
) -> tuple[list[float], list[float]]:
    """Seconds of up to `repeats` runs of each, taken in turns so that both meet the same weather."""
    of_first, of_second = in_turns((first, second), repeats, budget)
    return of_first, of_second


def in_turns(runs: Sequence[Callable[[], object]], repeats: int, budget: float = _BUDGET_SECONDS) -> list[list[float]]:
    """Seconds of up to `repeats` runs of each, taken in turns after warm-up.

    Stops early, after at least three runs, where one of them has used up `budget` seconds.
    """
    for _ in range(_WARMUP_RUNS):
        for run in runs:
            run()
    times: list[list[float]] = [[] for _ in runs]
    while len(times[0]) < repeats and (len(times[0]) < _MIN_RUNS or max(map(sum, times)) < budget):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return times


def torch_engine(deployed: Deployed, device: str) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """`deployed` as a function of arrays uint8 [B, H, W, 3] -> float32 [B, C], in torch."""
    module = deployed.eval().to(device).to(memory_format=torch.channels_last)

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            probabilities, _ = module(torch.from_numpy(images).to(device))
            return np.asarray(probabilities.cpu())

    return run


def write(measured: list[Latency], device: str, path: Path) -> None:
    """Write raw times, medians and ratios as JSON."""
    rows = [
        asdict(row)
        | {"onnx_median": row.onnx_median, "torch_median": row.torch_median, "onnx_times_faster": row.speedup}
        for row in measured
    ]
    write_json(path, {"device": device, "unit": "seconds a batch", "batches": rows})


def metrics(measured: list[Latency]) -> Mapping[str, float]:
    """Medians in milliseconds and ratios, by the names that a run logs them under."""
    named = {}
    for row in measured:
        named[f"latency_onnx_batch_{row.batch_size}_ms"] = 1000 * row.onnx_median
        named[f"latency_torch_batch_{row.batch_size}_ms"] = 1000 * row.torch_median
        named[f"latency_speedup_batch_{row.batch_size}"] = row.speedup
    return named
