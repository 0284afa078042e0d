"""What a run of the whole line would do, worked out from params.yaml and a listing of the data folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from transferline import augmentation
from transferline.artifacts import SPLITS, SplitName
from transferline.config import Params
from transferline.data import sources
from transferline.data.sources import Layout
from transferline.errors import UserError
from transferline.model import depths
from transferline.model.backbones import Spec
from transferline.tuning import LEAST_IMAGES, REFIT_PASSES, SEARCH_PASSES

_IMBALANCE = 5  # times as many images in the largest class as in the smallest
_FEW_TEST_IMAGES = 10  # of a class


@dataclass(frozen=True)
class Work:
    """Passes of single images through the network in one stage."""

    stage: str
    how: str
    forward: int  # without a gradient
    trained: int  # forward and backward


@dataclass(frozen=True)
class Plan:
    """The answer of `transferline check`; counts are of files, before prepare has looked into them."""

    images: int
    classes: dict[str, int]  # files of each; with `labels`, a file may be in several, or in none
    labels: str | None  # the CSV of labels
    splits: dict[SplitName, int]  # but for near duplicates, which stay together
    own_split: bool
    input_size: int
    dataset_bytes: int
    array_bytes: int
    free_bytes: int
    work: list[Work]
    warnings: list[str]


def make(params: Params, layout: Layout, backbone: Spec, free_bytes: int) -> Plan:
    """Plan a run on the files of `layout`.

    Raises:
        UserError: a class has too few images, the backbone cannot do what is asked of it, or the weights are missing.
    """
    sources.require_enough(layout.classes, params.prepare.min_images_per_class, labels=layout.labels)
    depths.resolve(params.tune, backbone)
    backbone.require_size(params.model.input_size or backbone.input_size)
    backbone.require_stochastic_depth(params.model.stochastic_depth)
    backbone.require_pooling(params.model.head.pooling)
    _require_weights(params.model.weights)
    splits = split_counts(params, layout)
    size = params.model.input_size or backbone.input_size
    array_bytes = array_size(splits, 0 if params.augment.online else _views(params, splits), size)
    return Plan(
        images=len(layout.files),
        classes=layout.classes,
        labels=layout.labels,
        splits=splits,
        own_split=bool(layout.splits),
        input_size=size,
        dataset_bytes=layout.total_bytes,
        array_bytes=array_bytes,
        free_bytes=free_bytes,
        work=work(params, splits),
        warnings=_warnings(params, layout, splits, array_bytes, free_bytes),
    )


def split_counts(params: Params, layout: Layout) -> dict[SplitName, int]:
    """Images per split: the user's own, with val taken out of train where it is missing; by shares else."""
    shares = params.data.split
    own = Counter(file.split for file in layout.files)
    if "val" in layout.splits:
        return {name: own[name] for name in SPLITS}
    total = own["train"] if layout.splits else len(layout.files)
    test = own["test"] if layout.splits else round(total * shares.test)
    free = total if layout.splits else total - test
    val = round(free * shares.val / (shares.train + shares.val))
    return {"train": free - val, "val": val, "test": test}


def array_size(splits: dict[SplitName, int], views: int, side: int) -> int:
    """Bytes of augment's uint8 arrays: each image once, those of train once more per augmented view."""
    return (sum(splits.values()) + splits["train"] * views) * side * side * 3


def _views(params: Params, splits: dict[SplitName, int]) -> int:
    return augmentation.views(params.augment.views, splits["train"])


def work(params: Params, splits: dict[SplitName, int]) -> list[Work]:
    """The stages that run the network, in order; by rule, trials and refit take this much at most."""
    train, val, test = splits["train"], splits["val"], splits["test"]
    tune, finetune = params.tune, params.finetune.lasting(train)
    epochs, rule = int(finetune.epochs), max(train, LEAST_IMAGES) / 3  # backward takes as long as two forward passes
    trained = round(SEARCH_PASSES * rule) if tune.trials == "auto" else tune.trials * epochs * train
    trials = "trials" if tune.trials == "auto" else f"{tune.trials} trials"
    views = train * (1 + _views(params, splits)) + val
    kept = params.activations.mode == "auto" and not (params.augment.online or finetune.mixes)
    once = Work("tune", f"frozen blocks, once: {views} views", views, 0)
    found = [once] if kept else [Work("tune", f"a linear probe on {train + val} images", train + val, 0)]
    if tune.trials:
        found.append(Work("tune", f"{trials} of {epochs} epochs", 0, trained))
    if params.model.head.hidden:
        rounds = int(params.train.lasting(train).epochs)
        found.append(Work("train", f"{rounds} epochs x {train} images", rounds * val, rounds * train))
    again = min(round(REFIT_PASSES * rule), epochs * (train + val))
    fitted = epochs * train if tune.trials == 0 else again
    return [
        *found,
        Work("finetune", f"{epochs} epochs on {train} train and {val} val images", 4 * val, fitted),
        Work("evaluate", f"{val} val and {test} test images", val + 2 * test, 0),
        Work("export", f"{test} test images, alone and in batches", 2 * test, 0),
    ]


def _require_weights(weights: str) -> None:
    if weights not in {"pretrained", "none"} and not Path(weights).is_file():
        raise UserError(
            f"params.yaml: model.weights: the file '{weights}' does not exist",
            "give the path of a state dict (.pth, .safetensors), or: pretrained, none",
        )


def _warnings(
    params: Params, layout: Layout, splits: dict[SplitName, int], array_bytes: int, free_bytes: int
) -> list[str]:
    found = []
    by_size = sorted(layout.classes, key=layout.classes.__getitem__)
    small, large = by_size[0], by_size[-1]
    ratio = layout.classes[large] / layout.classes[small]
    if ratio >= _IMBALANCE and "balanced" not in (params.finetune.class_weights, params.finetune.sampling):
        advice = "consider sampling: balanced or class_weights: balanced in finetune"
        found.append(f"'{large}' has {ratio:.0f} times as many images as '{small}': {advice}")
    expected = layout.classes[small] * splits["test"] / len(layout.files)
    if expected < _FEW_TEST_IMAGES:
        found.append(f"'{small}' has about {expected:.0f} test images: its scores will be uncertain")
    if max(params.tune.search.batch_size) > splits["train"]:
        found.append(f"tune.search.batch_size goes beyond the {splits['train']} training images")
    if layout.strays:
        where = f"not in {layout.labels}" if layout.labels else "outside every class folder"
        found.append(f"{len(layout.strays)} files are {where} and are left out: {layout.strays[0]}")
    if array_bytes > free_bytes:
        found.append("the arrays do not fit on the disk: lower augment.views or model.input_size")
    return found
