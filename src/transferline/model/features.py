"""Pooled features of images behind all blocks of a backbone, frozen, by the fastest engine at hand."""

import numpy as np
import numpy.typing as npt
from rich.progress import track

from transferline.model.classifier import Classifier
from transferline.model.engines import BATCH, EngineName, Prefix, choose

Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class Extractor:
    """One engine for many calls: it is chosen, by measuring, once.

    Args:
        classifier: its blocks are run in eval mode and left so.
        images: some that it will be given, uint8 [N, S, S, 3]; three batches of them are measured.
        engine: auto, torch or onnxruntime.
        count: how many images it will be given in all, where that is not N.
    """

    def __init__(
        self, classifier: Classifier, images: Images, engine: EngineName = "auto", count: int | None = None
    ) -> None:
        self.classifier = classifier
        self._engine = choose(Prefix(classifier, (len(classifier.blocks),)), images, engine, count)
        classifier.cpu()

    def __call__(self, images: Images, label: str = "features") -> Features:
        """uint8 [N, S, S, 3] -> float32 [N, P], with a progress bar that `label` starts."""
        starts = range(0, len(images), BATCH)
        description = f"{label}: frozen backbone, by {self._engine.name}"
        parts = [self._engine.run(images[start : start + BATCH])[0] for start in track(starts, description)]
        self.classifier.cpu()
        pooled: Features = np.concatenate(parts).reshape(len(images), -1)
        return pooled


def extract(classifier: Classifier, images: Images, engine: EngineName = "auto", label: str = "features") -> Features:
    """uint8 [N, S, S, 3] -> float32 [N, P], of all blocks in eval mode and the head's pooling."""
    return Extractor(classifier, images, engine)(images, label)
