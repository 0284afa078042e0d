"""Which layers of a network must stay in float for its answers to stay what they are: a search by measured loss."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from transferline.deploy.quantized import Feed, Track, Values, logits

Measure = Callable[[ModelProto], tuple[float, float]]  # a network -> its loss and its error


class Judge:
    """Says how far the answers of another network are from those of the exact one.

    Args:
        network: the exact one.
        feeds: the images to compare them on; one goes through them again and again.
        metadata: of the exported file.
    """

    def __init__(self, network: ModelProto, feeds: Iterable[Feed], metadata: Mapping[str, str]) -> None:
        self._feeds, self._exact = feeds, logits(network, feeds)
        self._cuts: npt.NDArray[np.float64] | None = None
        if "thresholds" in metadata:
            chances = np.array(json.loads(metadata["thresholds"]))
            with np.errstate(divide="ignore"):  # a threshold of 0 or 1 is one of infinity
                self._cuts = float(metadata["temperature"]) * (np.log(chances) - np.log1p(-chances))

    def __call__(self, network: ModelProto) -> tuple[float, float]:
        """The share of answers that differ (top-1, or decisions on labels), and the relative error of the logits."""
        found = logits(network, self._feeds)
        error = (
            np.square(found - self._exact, dtype=np.float64).mean() / np.square(self._exact, dtype=np.float64).mean()
        )
        return float(np.mean(self._answers(found) != self._answers(self._exact))), float(error)

    def _answers(self, values: Values) -> npt.NDArray[Any]:
        return values.argmax(axis=1) if self._cuts is None else values >= self._cuts


@dataclass(frozen=True)
class Candidate:
    """A network with its `count` most sensitive layers in float, and what that loses."""

    count: int
    loss: float
    error: float


class Search:
    """For the fewest layers that must stay in float.

    None are tried first, then the most sensitive one, two, four, eight ... until the loss is small enough; then fewer,
    by bisection. A layer is as sensitive as the logits are wrong when it alone is in int8.

    Args:
        make: the network with the layers named in float.
        layers: the names of all.
        judge: measures what a candidate loses.
        few: the same on few images, by which layers are ranked.
        max_loss: share of answers that may differ.

    Attributes:
        tried: the candidates, in order.
    """

    def __init__(
        self,
        make: Callable[[Collection[str]], ModelProto],
        layers: Sequence[str],
        judge: Measure,
        few: Measure,
        max_loss: float,
    ) -> None:
        self._make, self._layers, self._judge, self._few, self._max_loss = make, layers, judge, few, max_loss
        self._ranked = list(layers)
        self.tried: list[Candidate] = []

    def run(self, trials: int, track: Track) -> Candidate:
        """The one with the fewest layers in float within the loss; the best of at most `trials` where none is."""
        for _ in track([0], "trying int8"):
            self._try(0)
        if trials > 1 and self._next() is not None:
            self._rank(track)
            for _ in track(range(1, trials), "trying int8 with layers in float"):
                count = self._next()
                if count is None:
                    break
                self._try(count)
        good = [made for made in self.tried if made.loss <= self._max_loss]
        if good:
            return min(good, key=lambda made: made.count)
        return min(self.tried, key=lambda made: (made.loss, made.error))

    def floats(self, candidate: Candidate) -> list[str]:
        """Its layers in float, in the graph's order."""
        kept = set(self._ranked[: candidate.count])
        return [name for name in self._layers if name in kept]

    def _next(self) -> int | None:
        """How many layers to keep in float next; None where there is nothing left to try."""
        good = [made.count for made in self.tried if made.loss <= self._max_loss]
        bad = max((made.count for made in self.tried if not good or made.count < min(good)), default=-1)
        if not good:
            more = max(2 * bad, 1)
            return more if more < len(self._ranked) else None
        return (min(good) + bad) // 2 if min(good) - bad > 1 else None

    def _rank(self, track: Track) -> None:
        """Most sensitive first."""
        errors = {}
        for layer in track(self._layers, "ranking layers"):
            errors[layer] = self._few(self._make([name for name in self._layers if name != layer]))[1]
        self._ranked.sort(key=lambda name: -errors[name])  # stable: ties are in the graph's order

    def _try(self, count: int) -> None:
        self.tried.append(Candidate(count, *self._judge(self._make(self._ranked[:count]))))
