"""How long the line will take here: a few images are timed, and the plan's work is worked out from them."""

import time

import numpy as np

from transferline.artifacts import ModelCard
from transferline.config import Params
from transferline.deploy.plan import Plan, Work
from transferline.model import backbones, classifier

TIMED, BATCH = 4, 8  # batches, and images of each
START = 10.0  # seconds that a stage takes in addition to the network, to start and to write
STAGES = ("fetch", "prepare", "augment", "tune", "train", "finetune", "evaluate", "export", "register")


def forward_seconds(params: Params, side: int) -> float:
    """Of one image through the backbone, with random weights, on the device that the line would run on."""
    spec = backbones.spec(params.model.backbone)
    card = ModelCard(spec.name, ["a", "b"], side, params.model.resize, list(spec.mean), list(spec.std), dropout=0.0)
    net = classifier.build(card, "none", seed=0)
    images = np.zeros((BATCH, side, side, 3), np.uint8)
    classifier.predict_logits(net, images, BATCH, "timing the backbone")
    start = time.perf_counter()
    classifier.predict_logits(net, np.repeat(images, TIMED, axis=0), BATCH, "timing the backbone")
    return (time.perf_counter() - start) / (TIMED * BATCH)


def minutes(plan: Plan, seconds: float) -> dict[str, float]:
    """Of each stage, about; a backward pass takes as long as two forward ones.

    Args:
        seconds: of one image forward.
    """

    def network(work: Work) -> float:
        return seconds * (work.forward + 3 * work.trained)

    spent = {stage: START + sum(network(work) for work in plan.work if work.stage == stage) for stage in STAGES}
    return {stage: taken / 60 for stage, taken in spent.items()}
