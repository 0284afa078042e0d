"""What the variants of a model take: answers in batches, and times on every execution provider at hand."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from transferline.deploy import latency
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.evaluation.variants import Timing

BATCHES = (1, 8, 32)
PROVIDERS = ("cpu", "cuda", "tensorrt")

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


def in_batches(
    predict: Callable[[Images], Probabilities], images: Images, batch_size: int, description: str
) -> Probabilities:
    """Probabilities float32 [N, C] of images uint8 [N, H, W, 3], with a progress bar."""
    starts = range(0, len(images), batch_size)
    batches = (np.array(images[start : start + batch_size]) for start in starts)  # those on disk are not writable
    return np.concatenate([predict(batch) for batch in track(batches, description, total=len(starts))])


def measure(files: Mapping[str, Path], image: Images, repeats: int) -> dict[str, list[Timing]]:
    """Times of each model on copies of one raw image, uint8 [H, W, 3], by its name.

    The models take turns, so that all of them meet the same weather. Those on the provider that a Predictor takes by
    itself come first; a model that a provider cannot run has no times there.

    Args:
        files: the model that every provider must run first.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in files}
    tasks = [(provider, size) for provider in _at_hand(files, image) for size in BATCHES]
    opened: dict[str, dict[str, Predictor]] = {}
    for provider, size in track(tasks, "timing the variants"):
        if provider not in opened:
            opened = {provider: _opened(files, provider, image)}  # those of the one before are let go
        predictors, batch = opened[provider], np.repeat(image[np.newaxis], size, axis=0)
        seconds = latency.in_turns([partial(one.predict, batch) for one in predictors.values()], repeats)
        for name, times in zip(predictors, seconds, strict=True):
            timings[name].append(Timing(provider, size, times))
    return timings


def _at_hand(files: Mapping[str, Path], image: Images) -> list[str]:
    """The providers that run the first model here, the one taken by itself first."""
    first = dict([next(iter(files.items()))])
    usual = Predictor(*first.values()).device
    others = [name for name in PROVIDERS if name != usual and _opened(first, name, image)]
    return [usual, *others]


def _opened(files: Mapping[str, Path], provider: str, image: Images) -> dict[str, Predictor]:
    """Those that the provider can be had for, and that it can run."""
    predictors = {}
    for name, file in files.items():
        try:
            predictor = Predictor(file, providers=[provider])
            predictor.predict(image[np.newaxis])
        except UserError:
            continue
        predictors[name] = predictor
    return predictors
