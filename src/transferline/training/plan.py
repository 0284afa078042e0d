"""How long a trial is and how many fit: by a rule, from images and multiply-adds; or by a clock, which decides once."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice

import torch

from transferline.artifacts import Plan
from transferline.fitting import Finetune, Fit
from transferline.model.classifier import Classifier, pick_device
from transferline.model.work import block_work, training_work
from transferline.training.data import Batch, Behind, Splits, ViewData
from transferline.training.fit import make_trainee
from transferline.training.optimisers import make_optimizer
from transferline.tuning import LEAST_IMAGES, REFIT_PASSES, SEARCH_PASSES, Tune

MOST_TRIALS = 12  # by rule: TPE needs some, and further ones chase the noise of few validation images
CACHED = 0.1  # share of the backbone's work from which on what its first blocks give is worth keeping
# What the later stages take without their training, found on the benchmark's data sets: so many seconds to start, write
# and export; and for each validation image, of which test has about as many, as long as so many training steps on one.
AFTER_TUNE, ANSWERS = 80.0, 2.0
TRIAL = 2.0  # seconds of a trial in addition to its steps
STEPS = 4  # timed at each depth, after one that warms up


def cached_depths(works: Sequence[float]) -> list[int]:
    """Those behind which what the frozen blocks give is worth keeping."""
    return [depth for depth in range(1, len(works) + 1) if sum(works[:depth]) >= CACHED * sum(works)]


def by_rule(net: Classifier, config: Tune, finetune: Finetune, images: int) -> Plan:
    """The plan that needs no clock.

    Args:
        net: with the head that is trained.
        images: to train on.
    """
    works = block_work(net)
    kept = set(cached_depths(works))
    costs = [training_work(net, works, depth, kept=depth in kept) for depth in range(len(works) + 1)]
    unit = sum(works) * max(images, LEAST_IMAGES)
    return Plan(
        unit="multiply-adds",
        images=images,
        epochs=_epochs(finetune, images),
        costs=costs,
        overhead=0.0,
        trials=None if config.trials == "auto" else config.trials,
        budget=SEARCH_PASSES * unit,
        first=[],
        refit_budget=REFIT_PASSES * unit,
    )


def by_clock(
    config: Tune,
    finetune: Finetune,
    images: int,
    validation: int,
    *,
    seconds: Callable[[int], float],
    blocks: int,
    spent: float,
) -> Plan:
    """The plan for `tune.minutes`.

    For the refit there is the time that it takes with a third of the blocks frozen, but 40 % at most; for trials the
    rest.

    Epochs are as many as let a trial with half of the blocks frozen take a third of the time, and no more than twice as
    many as by rule.

    Args:
        images: to train on.
        validation: images of validation; evaluate and export answer for about as many of test.
        seconds: of training on one image, by freeze depth.
        blocks: of the backbone.
        spent: seconds since tune began.
    """
    assert config.minutes is not None
    costs = [seconds(depth) for depth in range(blocks + 1)]
    left = max(60 * config.minutes - spent - AFTER_TUNE - ANSWERS * validation * costs[0], 10.0)
    epochs, half = _epochs(finetune, images), images * costs[-(-blocks // 2)]
    if finetune.epochs == "auto":
        epochs = min(max(int(left / 3 / half), 1), 2 * epochs)
    refit = min(epochs * (images + validation) * costs[blocks // 3], 0.4 * left)
    return Plan(
        unit="seconds",
        images=images,
        epochs=epochs,
        costs=costs,
        overhead=TRIAL,
        trials=None,
        budget=left - refit,
        first=[],
        refit_budget=refit,
    )


def _epochs(finetune: Fit, images: int) -> int:
    epochs = finetune.lasting(images).epochs
    assert epochs != "auto"
    return epochs


def with_first(plan: Plan, config: Tune, suggested: int) -> Plan:
    """The depths that are tried first, as far as they fit: all blocks frozen, all but one, then the deeper trials.

    These freeze a third and half of the blocks, and as many as the probe suggests. The one that trains most comes
    first; where it does not fit, the nearest that does is taken.
    """
    blocks, search = len(plan.costs) - 1, config.search.freeze_depth
    high = blocks if search.high is None else search.high
    start = suggested if config.start.freeze_depth is None else config.start.freeze_depth
    deep = sorted({start, blocks // 3, -(-blocks // 2)})
    wanted = [blocks, blocks - 1, *deep]
    if config.start.freeze_depth is not None:
        wanted = [start, *wanted]
    spent, first = 0.0, list[int]()
    for asked in wanted:
        depth = min(max(asked, search.low), high)
        if plan.trials is None and asked == deep[0]:
            affordable = shallowest(plan, depth, high, spent)
            depth = high if affordable is None else affordable
        fits = plan.trials is not None or spent + plan.cost(depth) <= plan.budget
        if depth not in first and (fits or not first):
            first.append(depth)
            spent += plan.cost(depth)
    return replace(plan, first=first if plan.trials is None else first[: plan.trials])


def gentle(images: int) -> float:
    """The share of `tune.start.lr` for trials that freeze half of the blocks or more: few images ask for a low rate.

    A quarter for up to 400 training images, half from 800 on: found on validation images of the benchmark's data sets.
    """
    return min(max(images / 1600, 1 / 4), 1 / 2)


def shallowest(plan: Plan, low: int, high: int, spent: float) -> int | None:
    """The smallest freeze depth from `low` to `high` that the budget has enough left for; None: not even `high`."""
    left = plan.budget - spent
    return next((depth for depth in range(low, high + 1) if plan.cost(depth) <= left), None)


def refits(plan: Plan, finetune: Finetune, depth: int, images: int) -> bool:
    """Whether finetune trains once more, on so many images of train and validation together."""
    if finetune.refit != "auto":
        return finetune.refit
    return plan.epochs * images * plan.costs[depth] <= plan.refit_budget


def measure(net: Classifier, splits: Splits, behind: Behind | None, config: Fit, batch_size: int) -> float:
    """Seconds for an image in training, validation counted in: some steps, on the device it would train on.

    Args:
        net: with its freeze depth set; left as it is.
    """
    module = make_trainee(deepcopy(net), splits, config, lr=1e-6, seed=0, behind=behind).to(pick_device())
    optimizer = make_optimizer(module.net, config, 1e-6)
    data = ViewData(splits, batch_size, 0, behind=behind)

    def step(batch: Batch, number: int) -> None:
        here = tuple(part.to(module.device) for part in batch[0]), batch[1].to(module.device), batch[2]
        logits, targets = module.answers(data.drawn(here, 0), 0, number)
        torch.autograd.backward(module.loss(logits, targets) + module.penalty())
        optimizer.step()
        optimizer.zero_grad()
        logits.sum().item()  # waits for a GPU

    seconds, images = 0.0, 0
    for number, batch in enumerate(islice(data.train_dataloader(), 1 + STEPS)):
        start = time.perf_counter()
        step(batch, number)
        if number or len(data.train_dataloader()) == 1:
            seconds, images = seconds + time.perf_counter() - start, images + len(batch[1])
    module.eval()
    stored, labels, _ = next(iter(data.val_dataloader()))
    start = time.perf_counter()
    with torch.inference_mode():
        module.logits(tuple(part.to(module.device) for part in stored)).sum().item()
    validation = (time.perf_counter() - start) / len(labels) * len(splits.val.labels) / len(splits.train.labels)
    return seconds / images + validation
