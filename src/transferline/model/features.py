"""Pooled features of images behind all blocks of a backbone, frozen."""

import numpy as np
import numpy.typing as npt
from rich.progress import track

from transferline.model.classifier import Classifier
from transferline.model.engines import BATCH, EVERY, EngineName, Prefix, Rows, choose, preferred

Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class Extractor:
    """One engine for many calls.

    Args:
        classifier: its blocks are run in eval mode and left so.
        count: how many images it will be given in all.
        engine: auto, torch or onnxruntime.
        start: blocks that are behind what it is given already, instead of images: float32 [N, ...boundary].
        every: give what is pooled behind every block, too, before that of the last.
    """

    def __init__(
        self, classifier: Classifier, count: int, engine: EngineName = "auto", start: int = 0, *, every: bool = False
    ) -> None:
        self.classifier = classifier
        # torch alone continues from a boundary to the same bits
        runner = "torch" if start else preferred(classifier, count, engine)
        depths = (EVERY, len(classifier.blocks)) if every else (len(classifier.blocks),)
        self._engine = choose(Prefix(classifier, depths, start), runner)
        classifier.cpu()

    @property
    def engine(self) -> str:
        """The name of what runs the blocks."""
        return self._engine.name

    def __call__(self, images: Rows, label: str = "features") -> Features:
        """uint8 [N, S, S, 3], or of the boundary -> float32 [N, P], with a progress bar that `label` starts."""
        starts = range(0, len(images), BATCH)
        description = f"{label}: frozen backbone, by {self.engine}"
        parts = [
            np.hstack([left.reshape(len(left), -1) for left in self._engine.run(images[start : start + BATCH])])
            for start in track(starts, description)
        ]
        self.classifier.cpu()
        pooled: Features = np.concatenate(parts)
        return pooled


def extract(classifier: Classifier, images: Images, engine: EngineName = "auto", label: str = "features") -> Features:
    """uint8 [N, S, S, 3] -> float32 [N, P], of all blocks in eval mode and the head's pooling."""
    return Extractor(classifier, len(images), engine)(images, label)
