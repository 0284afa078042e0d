"""What the policy audit looks at: a frozen backbone's features of clean and of transformed images."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from transferline.artifacts import Arrays
from transferline.data import transforms
from transferline.data.arrays import one_thread
from transferline.data.evidence import Evidence, Transformed
from transferline.data.images import Pixels
from transferline.model import classifier
from transferline.model.features import Extractor
from transferline.policy import Transform
from transferline.sections import Head, Model

IMAGES, TRANSFORMED, PASSES = 360, 300, 1000  # at most about: clean, after each transform, in all; more change little


def look(take: Callable[..., Arrays], model: Model, seed: int, policy: Sequence[Transform]) -> Evidence:
    """Features of clean images of train and validation, and of some of them after each transform.

    A transform is applied to every one of these, whatever its `p`, with parameters drawn from its range. A random
    resized crop is cut from the image at the network's size.

    Args:
        take: gives about `limit` clean images of `splits`, as clean.taken.
        seed: of which images are transformed, and of what the transforms draw.

    Raises:
        UserError: for an unknown backbone, or weights that are unavailable or do not fit.
    """
    arrays = take(limit=IMAGES, splits=("train", "val"))
    clean, assigned = arrays.images[:, 0], arrays.groups
    assert assigned is not None
    count = min(TRANSFORMED, max(PASSES - len(clean), 0) // len(policy))
    rows = np.sort(np.random.default_rng(seed).permutation(len(clean))[:count])
    # Of the head its pooling alone is used; a flattened feature map would be too wide for a quick probe.
    card = replace(classifier.make_card(model, arrays), head=Head())
    net = classifier.build(card, model.weights, seed)
    extract = Extractor(net, len(clean) + len(rows) * len(policy))
    return Evidence(
        backbone=model.backbone,
        clean=extract(clean, "audit: clean"),
        labels=arrays.labels,
        groups=assigned,
        rows=rows,
        classes=len(arrays.classes),
        example=clean[rows[0]],
        transformed=[_transformed(clean[rows], transform, extract, seed) for transform in policy],
    )


def _transformed(images: Pixels, transform: Transform, extract: Extractor, seed: int) -> Transformed:
    always = transform.model_copy(update={"p": 1.0})
    with one_thread():
        seeds = [(seed, index) for index in range(len(images))]
        changed = transforms.drawn(torch.from_numpy(images), [always], seeds).numpy()
    return Transformed(transform, extract(changed, f"audit: {transform.name}"), changed[0])
