"""What train and finetune do: the head on the frozen backbone, then everything above the freeze depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pytorch_lightning.callbacks import Callback

from transferline.artifacts import (
    BEST,
    FINETUNED,
    HEAD,
    WINNER,
    Best,
    Choice,
    ModelCard,
    Plan,
    Probed,
    write_choice,
    write_held_out,
    write_text,
)
from transferline.errors import UserError
from transferline.fitting import Finetune, Fit, Train
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, make_card
from transferline.model.engines import EVERY
from transferline.sections import Model
from transferline.training import choice
from transferline.training.callbacks import Unfreezing
from transferline.training.choice import Tried
from transferline.training.data import Behind, Physical, Splits, embed, kept_splits
from transferline.training.fit import History, Recorder, fit
from transferline.training.optimisers import check_optimizer
from transferline.training.probe import block_features, fit_head
from transferline.training.scores import LOGGED
from transferline.training.shrink import within_memory
from transferline.tuning import model_with, with_choices

HISTORY = "history.csv"
_Fit = TypeVar("_Fit", bound=Fit)


def with_best(config: _Fit, best: Best) -> _Fit:
    """`config` with what tune searched beyond rate, batch size and depth.

    Raises:
        UserError: where that contradicts what the section says.
    """
    try:
        config = with_choices(config, best.choices, best.batch_size)
    except UserError as error:
        raise UserError(f"{error.what} (with what tune chose, in {BEST})", error.fix) from None
    check_optimizer(config.optimizer)
    return config


def train_head(
    splits: Splits,
    model: Model,
    config: Train,
    *,
    best: Best,
    probed: Probed,
    plan: Plan,
    seed: int,
    cache: Cache,
    recorder: Recorder,
    resume: Path | None = None,
) -> History:
    """The head on the frozen backbone, written to models/head/.

    A linear head is the probe, fitted on the training images, and on those of validation where finetune trains once
    more on both. Any other is trained on standardised features; with no epochs it stays as it was made.

    `resume` as in `fit`.
    """
    config = with_best(config, best)
    card = make_card(model_with(model, best.choices), splits.train, probed.taps)
    net = classifier.build(card, model.weights, seed)
    net.freeze(len(net.blocks))
    splits = splits._replace(joined=plan.refit)
    fit_probe_head(net, splits, probed, seed=seed, cache=cache, depth=best.freeze_depth)
    history = History()
    if len(net.head.hidden) and config.epochs:
        splits = splits._replace(joined=False)
        behind = embed(cache, net, splits, {net.freeze_depth}, config).get(net.freeze_depth)
        history = _fit(
            net, splits, behind, config, best=best, seed=seed, recorder=recorder, label="train", resume=resume
        )
    _write(net, card, history, HEAD)
    return history


def fit_probe_head(net: Classifier, splits: Splits, probed: Probed, *, seed: int, cache: Cache, depth: int = 0) -> None:
    """Give `net` the probe as its head, fitted on what `splits` trains on; see `fit_head`.

    Args:
        depth: behind which activations are wanted later: the same pass over the data leaves them.
    """
    kept = kept_splits(cache, net, splits, {depth, len(net.blocks), EVERY})
    features = block_features(net, splits, kept)
    given = np.concatenate([features.train, features.val]) if splits.joined else features.train
    fit_head(net, given[:, features.columns(probed.taps)], splits.labels, probed.prior, seed)


def finetune(
    splits: Splits,
    config: Finetune,
    *,
    best: Best,
    probed: Probed,
    plan: Plan,
    seed: int,
    cache: Cache,
    recorder: Recorder,
    resume: Path | None = None,
) -> tuple[History, Choice]:
    """From models/head/, everything above the tuned freeze depth, or all, written to models/finetuned/.

    Fine-tuned on train by tune's best trial, or here where there was none; then the linear probe and the fine-tuned
    network are compared on validation; then, where `plan.refit`, what was chosen is trained on train and validation
    together. The logits of validation from before that are kept, for temperature and thresholds.

    `resume` as in `fit`.
    """
    config = with_best(config, best).model_copy(update={"epochs": plan.epochs})
    net, card = classifier.load(HEAD)
    net.freeze(0 if config.freezing == "full" else best.freeze_depth)
    behind = embed(cache, net, splits, {net.freeze_depth}, config).get(net.freeze_depth)
    options: dict[str, Any] = {"best": best, "seed": seed, "recorder": recorder}

    shipped = {key: value.clone() for key, value in net.state_dict().items()}
    if plan.refit and len(net.head.hidden) == 0:  # that head has seen validation; what is compared there has not
        fit_probe_head(net, splits, probed, seed=seed, cache=cache)
    start = Tried.of(net, choice.validation_logits(net, splits, behind))
    history, end = History(), Tried.read(WINNER)
    if not end.state:
        history = _fit(net, splits, behind, config, label="finetune", resume=resume, **options)
        end = Tried.of(net, choice.validation_logits(net, splits, behind))

    taken, made = choice.choose(start, end, splits.val.labels, refit=plan.refit)
    net.load_state_dict(shipped if plan.refit else taken.state, strict=False)
    if plan.refit:
        history = _refit(net, splits, behind, config, resume=resume, **options) if taken is end else History()
    _write(net, card, history, FINETUNED)
    write_choice(made)
    write_held_out(taken.logits)
    return history, made


def _refit(
    net: Classifier,
    splits: Splits,
    behind: Behind | None,
    config: Finetune,
    *,
    recorder: Recorder,
    resume: Path | None,
    **options: Any,
) -> History:
    """Train on train and validation together, from the probe that was fitted on both."""
    together, folder = splits._replace(joined=True), resume / "refit" if resume else None
    label = "finetune: on train and validation"
    with recorder.child("on train and validation", {"images": len(together.labels)}) as run:
        return _fit(net, together, behind, config, label=label, resume=folder, recorder=run, **options)


def adapt(
    net: Classifier, splits: Splits, config: Fit, *, callbacks: Sequence[Callback] = (), **options: Any
) -> History:
    """As `fit`, with blocks unfrozen one by one where `config` says so."""
    if isinstance(config, Finetune) and config.freezing == "gradual":
        callbacks = [*callbacks, Unfreezing(len(net.blocks), net.freeze_depth, config.unfreeze_epochs)]
    return fit(net, splits, config, callbacks=callbacks, **options)


def _fit(
    net: Classifier,
    splits: Splits,
    behind: Behind | None,
    config: Fit,
    *,
    best: Best,
    seed: int,
    recorder: Recorder,
    label: str,
    resume: Path | None,
) -> History:
    def attempt(physical: Physical, phase: Callback, run: Recorder) -> History:
        return adapt(
            net,
            splits,
            config,
            lr=best.lr,
            batch_size=best.batch_size,
            seed=seed,
            recorder=run,
            label=label,
            behind=behind,
            callbacks=[phase],
            physical=physical,
            resume=resume,
        )

    return within_memory(
        attempt, net, config, batch_size=best.batch_size, recorder=recorder, label=label, resume=resume
    )


def _write(net: Classifier, card: ModelCard, history: History, folder: Path) -> None:
    classifier.save(net, card, folder)
    names = [name for name in (*LOGGED, "lr") if all(name in row for row in history.epochs)]
    lines = [",".join(["epoch", *names])]
    lines += [
        ",".join([str(number), *(f"{row[name]:.8g}" for name in names)]) for number, row in enumerate(history.epochs)
    ]
    write_text(folder / HISTORY, "\n".join(lines) + "\n")
