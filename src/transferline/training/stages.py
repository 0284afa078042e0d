"""What train and finetune do: the head on the frozen backbone, then everything above the freeze depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pytorch_lightning.callbacks import Callback

from transferline.artifacts import BEST, FINETUNED, HEAD, Best, ModelCard, write_text
from transferline.errors import UserError
from transferline.fitting import Finetune, Fit, Train
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier, make_card
from transferline.sections import Model
from transferline.training.callbacks import Unfreezing
from transferline.training.data import Behind, Physical, Splits, embed
from transferline.training.fit import History, Recorder, fit
from transferline.training.optimisers import check_optimizer
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
    seed: int,
    cache: Cache,
    recorder: Recorder,
    resume: Path | None = None,
) -> History:
    """A fresh head on the frozen backbone, written to models/head/; with no epochs, as it was made.

    `resume` as in `fit`.
    """
    config = with_best(config, best)
    card = make_card(model_with(model, best.choices), splits.train)
    net = classifier.build(card, model.weights, seed)
    net.freeze(len(net.blocks))
    history = History()
    if config.epochs:
        # The same pass over the data leaves what finetune will start from.
        behind = embed(cache, net, splits, {net.freeze_depth, best.freeze_depth}, config).get(net.freeze_depth)
        history = _fit(
            net, splits, behind, config, best=best, seed=seed, recorder=recorder, label="train", resume=resume
        )
    _write(net, card, history, HEAD)
    return history


def finetune(
    splits: Splits,
    config: Finetune,
    *,
    best: Best,
    seed: int,
    cache: Cache,
    recorder: Recorder,
    resume: Path | None = None,
) -> History:
    """From models/head/, everything above the tuned freeze depth, or all, written to models/finetuned/.

    `resume` as in `fit`.
    """
    config = with_best(config, best)
    net, card = classifier.load(HEAD)
    depth = 0 if config.freezing == "full" else best.freeze_depth
    net.freeze(depth)
    callbacks = [Unfreezing(len(net.blocks), depth, config.unfreeze_epochs)] if config.freezing == "gradual" else []
    behind = embed(cache, net, splits, {depth}, config).get(depth)
    history = _fit(
        net,
        splits,
        behind,
        config,
        best=best,
        seed=seed,
        recorder=recorder,
        label="finetune",
        resume=resume,
        callbacks=callbacks,
    )
    _write(net, card, history, FINETUNED)
    return history


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
    callbacks: Sequence[Callback] = (),
) -> History:
    def attempt(physical: Physical, phase: Callback, run: Recorder) -> History:
        return fit(
            net,
            splits,
            config,
            lr=best.lr,
            batch_size=best.batch_size,
            seed=seed,
            recorder=run,
            label=label,
            behind=behind,
            callbacks=[phase, *callbacks],
            physical=physical,
            resume=resume,
        )

    return within_memory(
        attempt, net, config, batch_size=best.batch_size, recorder=recorder, label=label, resume=resume
    )


def _write(net: Classifier, card: ModelCard, history: History, folder: Path) -> None:
    classifier.save(net, card, folder)
    names = [*LOGGED, "lr"]
    lines = [",".join(["epoch", *names])]
    lines += [
        ",".join([str(number), *(f"{row[name]:.8g}" for name in names)]) for number, row in enumerate(history.epochs)
    ]
    write_text(folder / HISTORY, "\n".join(lines) + "\n")
