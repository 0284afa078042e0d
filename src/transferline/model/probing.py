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

TRAIN_IMAGES, VAL_IMAGES = 400, 300  # about, at most: more take longer and change little


def look(take: Callable[..., Arrays], model: Model, seed: int, policy: Sequence[Transform]) -> Evidence:
    """Features of clean training images, of clean validation images, and of these after each transform.

    A transform is applied to every image, whatever its `p`, with parameters drawn from its range. A random resized
    crop is cut from the image at the network's size.

    Args:
        take: gives about `limit` clean images of a `split`, as clean.taken.
        seed: of what the transforms draw.

    Raises:
        UserError: for an unknown backbone, or weights that cannot be had or do not fit.
    """
    train, val = take(limit=TRAIN_IMAGES, split="train"), take(limit=VAL_IMAGES, split="val")
    known, clean = train.images[:, 0], val.images[:, 0]
    # Of the head its pooling alone is used; a flattened feature map would be too wide for a quick probe.
    card = replace(classifier.make_card(model, train), head=Head())
    net = classifier.build(card, model.weights, seed)
    extract = Extractor(net, len(known) + len(clean) * (1 + len(policy)))
    return Evidence(
        backbone=model.backbone,
        train=extract(known, "audit: train"),
        train_labels=train.labels,
        clean=extract(clean, "audit: val"),
        labels=val.labels,
        classes=len(train.classes),
        example=clean[0],
        transformed=[_transformed(clean, transform, extract, seed) for transform in policy],
    )


def _transformed(images: Pixels, transform: Transform, extract: Extractor, seed: int) -> Transformed:
    always = transform.model_copy(update={"p": 1.0})
    with one_thread():
        seeds = [(seed, index) for index in range(len(images))]
        changed = transforms.drawn(torch.from_numpy(np.array(images)), [always], seeds).numpy()
    return Transformed(transform, extract(changed, f"audit: {transform.name}"), changed[0])
