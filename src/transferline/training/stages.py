"""What train and finetune do: the head on the frozen backbone, then everything above the freeze depth."""

from pathlib import Path

from transferline.artifacts import FINETUNED, HEAD, Arrays, Best, ModelCard, write_text
from transferline.model import backbones, classifier
from transferline.model.activations import Cache
from transferline.model.classifier import Classifier
from transferline.sections import Finetune, Fit, Model, Train
from transferline.training.data import Behind, Splits, embed
from transferline.training.fit import History, Recorder, fit

HISTORY = "history.csv"


def make_card(model: Model, arrays: Arrays, dropout: float | None = None) -> ModelCard:
    """The card of a new classifier; `dropout` is the tuned one, or None for the model section's."""
    spec = backbones.spec(model.backbone)
    return ModelCard(
        backbone=model.backbone,
        classes=arrays.classes,
        input_size=int(arrays.images.shape[2]),
        resize=model.resize,
        mean=list(spec.mean),
        std=list(spec.std),
        dropout=model.dropout if dropout is None else dropout,
        head=model.head,
        stochastic_depth=model.stochastic_depth,
        task="multilabel" if arrays.multilabel else "multiclass",
    )


def with_best(config: Fit, best: Best) -> Fit:
    """`config` with what tune searched beyond rate, batch size and depth."""
    searched = {"weight_decay": best.weight_decay, "label_smoothing": best.label_smoothing}
    return config.model_copy(update={key: value for key, value in searched.items() if value is not None})


def train_head(
    splits: Splits, model: Model, config: Train, *, best: Best, seed: int, cache: Cache, recorder: Recorder
) -> History:
    """A fresh head on the frozen backbone, written to models/head/."""
    card = make_card(model, splits.train, best.dropout)
    net = classifier.build(card, model.weights, seed)
    net.freeze(len(net.blocks))
    # The same pass over the data leaves what finetune will start from.
    behind = embed(cache, net, splits, {net.freeze_depth, best.freeze_depth}).get(net.freeze_depth)
    history = _fit(net, splits, behind, config, best=best, seed=seed, recorder=recorder, label="train")
    _write(net, card, history, HEAD)
    return history


def finetune(splits: Splits, config: Finetune, *, best: Best, seed: int, cache: Cache, recorder: Recorder) -> History:
    """From models/head/, everything above the tuned freeze depth, written to models/finetuned/."""
    net, card = classifier.load(HEAD)
    net.freeze(best.freeze_depth)
    behind = embed(cache, net, splits, {best.freeze_depth}).get(best.freeze_depth)
    history = _fit(net, splits, behind, config, best=best, seed=seed, recorder=recorder, label="finetune")
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
) -> History:
    return fit(
        net,
        splits,
        with_best(config, best),
        lr=best.lr,
        batch_size=best.batch_size,
        seed=seed,
        recorder=recorder,
        label=label,
        behind=behind,
    )


def _write(net: Classifier, card: ModelCard, history: History, folder: Path) -> None:
    classifier.save(net, card, folder)
    lines = [",".join(["epoch", *history.epochs[0]])]
    lines += [
        ",".join([str(number), *(f"{value:.8g}" for value in row.values())])
        for number, row in enumerate(history.epochs)
    ]
    write_text(folder / HISTORY, "\n".join(lines) + "\n")
