"""train and finetune: the head first, then from the tuned depth up."""

import pytest
import torch

from tests.conftest import ListRecorder
from transferline.artifacts import FINETUNED, HEAD, Best
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations, Finetune, Model, Train
from transferline.training.data import Splits
from transferline.training.stages import finetune, train_head, with_best

MODEL = Model(backbone="mobilenet_v3_small", weights="none", dropout=0.1)
CACHE = Cache(Activations(mode="off"))
BEST = Best(lr=2e-3, batch_size=16, freeze_depth=6, value=None, study="", run_id="", dropout=0.3)


def test_finetune_starts_from_the_trained_head_and_keeps_what_is_frozen(splits: Splits) -> None:
    fresh = classifier.build(
        classifier.ModelCard("mobilenet_v3_small", splits.train.classes, 32, "squash", [0.5] * 3, [0.2] * 3, 0.3),
        "none",
        seed=1,
    ).state_dict()
    train_head(splits, MODEL, Train(), best=BEST, seed=1, cache=CACHE, recorder=ListRecorder())
    head, card = classifier.load(HEAD)
    assert card.dropout == 0.3
    changed = {key.split(".")[0] for key, value in head.state_dict().items() if not torch.equal(value, fresh[key])}
    assert changed == {"head"}

    finetune(splits, Finetune(epochs=1), best=BEST, seed=1, cache=CACHE, recorder=ListRecorder())
    tuned, tuned_card = classifier.load(FINETUNED)
    assert tuned_card == card
    before, after = head.state_dict(), tuned.state_dict()
    moved = {key.rsplit(".", 1)[0] for key in after if not torch.equal(before[key], after[key])}
    assert not [name for name in moved if name.startswith(tuple(f"blocks.{index}." for index in range(6)))]
    assert [name for name in moved if name.startswith("blocks.6.")]
    assert (FINETUNED / "history.csv").read_text().startswith("epoch,train_loss,val_loss")


@pytest.mark.parametrize(("tuned", "expected"), [(0.2, 0.2), (None, 0.01)])
def test_what_was_tuned_goes_before_the_section(tuned: float | None, expected: float) -> None:
    best = Best(lr=1e-3, batch_size=8, freeze_depth=0, value=None, study="", run_id="", weight_decay=tuned)
    assert with_best(Finetune(weight_decay=0.01), best).weight_decay == expected
