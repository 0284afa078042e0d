"""The logits that evaluate judges: of the final model, and of the linear probe that it is compared with."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from transferline.artifacts import HEAD, Arrays, SplitName, read_held_out
from transferline.model.classifier import Classifier, load, predict_logits

Logits = dict[SplitName, npt.NDArray[np.float32]]


def of_final(final: Classifier, splits: Mapping[SplitName, Arrays], batch_size: int) -> Logits:
    """Logits float32 [M, C] of `val`, by the model before any refit on these images, and [N, C] of `test`.

    Raises:
        UserError: where models/finetuned/held_out.npy is damaged or is not of these images.
    """
    test = predict_logits(final, splits["test"].images[:, 0], batch_size)
    return {"val": read_held_out(splits["val"]), "test": test}


def of_probe(splits: Mapping[SplitName, Arrays], batch_size: int) -> Logits:
    """Logits of the model in models/head/ for `test`; in multi-label data for `val`, too, to tune its thresholds on.

    Raises:
        UserError: where models/head/ cannot be read.
    """
    probe, _ = load(HEAD)
    needed: tuple[SplitName, ...] = ("val", "test") if splits["test"].multilabel else ("test",)
    return {name: predict_logits(probe, splits[name].images[:, 0], batch_size, "linear probe") for name in needed}
