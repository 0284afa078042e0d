"""fastai's side of `suite`, in an environment of its own: fine_tune with fastai's defaults, in a given time.

    python fastai_side.py REQUEST.json ANSWER.json

The rates, the augmentation (aug_transforms), the head and the batch size are fastai's defaults; only the weights, the
mean and the standard deviation that they expect, and the split are given. An epoch of each kind is measured first, on
a learner that is thrown away and outside of the time; then one frozen epoch and as many full ones run as fit into it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    aug_transforms,
    set_seed,
    vision_learner,
)


def loaders(request: dict[str, Any], rows: pd.DataFrame) -> ImageDataLoaders:
    normalise = Normalize.from_stats(request["mean"], request["std"])
    known = rows[rows["split"] != "test"].assign(held_out=lambda known: known["split"] == "val")
    return ImageDataLoaders.from_df(
        known,
        path=request["root"],
        fn_col="path",
        label_col="label",
        valid_col="held_out",
        item_tfms=Resize(request["size"]),
        batch_tfms=[*aug_transforms(), normalise],
    )


def learner(request: dict[str, Any], dls: ImageDataLoaders) -> Learner:
    """The published tensors stand in timm's order, under names of their own."""
    set_seed(request["seed"], reproducible=True)
    made = vision_learner(dls, request["model"], pretrained=False, normalize=False)
    body = made.model[0].model
    given = torch.load(request["weights"], map_location="cpu", weights_only=True)
    own = body.state_dict()  # without the classifier, whose tensors are the last
    assert all(value.shape == tensor.shape for value, tensor in zip(given.values(), own.values(), strict=False))
    body.load_state_dict(dict(zip(own, given.values(), strict=False)))
    return made


def timed(made: Learner) -> float:
    start = time.perf_counter()
    made.fit_one_cycle(1)
    return time.perf_counter() - start


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = pd.DataFrame(request["rows"], columns=["path", "label", "split"])
    dls = loaders(request, rows)
    trial = learner(request, dls)
    trial.freeze()
    frozen = timed(trial)
    trial.unfreeze()
    full = timed(trial)
    epochs = max(1, int((request["seconds"] - frozen) / full))
    print(f"fastai: a frozen epoch takes {frozen:.1f} s, a full one {full:.1f} s: {epochs} of them", flush=True)
    made = learner(request, dls)
    start = time.perf_counter()
    made.fine_tune(epochs)
    seconds = time.perf_counter() - start
    test = rows[rows["split"] == "test"]
    probabilities, _ = made.get_preds(dl=dls.test_dl(test))
    names = [dls.vocab[winner] for winner in probabilities.argmax(dim=1).tolist()]
    answer = {"predicted": dict(zip(test["path"], names, strict=True)), "epochs": epochs, "seconds": seconds}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
