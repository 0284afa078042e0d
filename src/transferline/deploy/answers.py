"""What a model says of an image, in the form in which predict and serve give it."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferline.deploy.predictor import Predictor


class Answer(NamedTuple):
    """The classes of one image."""

    labels: list[str] | None  # those it is given, in the order of the classes; None where it is in exactly one class
    ranked: list[tuple[str, float]]  # every class with its probability, the likeliest first

    def shown(self, top: int | None) -> list[tuple[str, str]]:
        """What a table has of it: the `top` likeliest; without, the class or the labels given."""
        if top is None and self.labels is not None:
            found = [(name, f"{value:.4f}") for name, value in self.ranked if name in self.labels]
            return found or [("(no label)", "")]
        return [(name, f"{value:.4f}") for name, value in self.ranked[: top or 1]]

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """`class` and `probability`, or `labels`; `probabilities` of all classes or of the `top` likeliest."""
        likeliest, probability = self.ranked[0]
        said = {"class": likeliest, "probability": probability} if self.labels is None else {"labels": self.labels}
        return {**said, "probabilities": dict(self.ranked[:top])}


def answer(predictor: Predictor, probabilities: npt.NDArray[np.float32]) -> Answer:
    """From probabilities float32 [C] of the predictor."""
    ranked = sorted(zip(predictor.classes, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])
    return Answer(None if predictor.thresholds is None else predictor.labels(probabilities), ranked)
