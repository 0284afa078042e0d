"""Behind kept activations, training is the same as with the frozen blocks run every epoch."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conformal_clip_data import textile_simulated_root
from torch import nn

from tests.conftest import ListRecorder
from tests.unit.model.passes import ROUNDING
from tests.unit.training.exact import CLOSE, METRIC, exactly, round_boundary
from transferline.artifacts import Arrays, ModelCard
from transferline.data import images
from transferline.data.preprocess import Resize
from transferline.fitting import Finetune
from transferline.model import activations, backbones, classifier
from transferline.model.activations import Cache
from transferline.sections import Activations
from transferline.training.data import Behind, Splits, embed
from transferline.training.fit import History, fit

Net = classifier.Classifier
EXACT = Activations(dtype="float32", engine="torch")
STEADY = Finetune(epochs=2, optimizer="sgd", schedule="constant", label_smoothing=0.0, batchnorm="train")
MIDDLE = {"efficientnet_lite0": 5, "resnet18": 3, "resnet50": 4, "mobilenet_v3_small": 6, "vgg16": 4}
HASHES = {"data/augmented/train": "train", "data/augmented/val": "val"}


@dataclass
class Steps(pl.Callback):
    """What each step saw and lost, and what the module held."""

    losses: list[float] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    inputs: set[tuple[int, ...]] = field(default_factory=set)
    held: set[nn.Parameter] = field(default_factory=set)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rows.append(batch[2].tolist())
        self.inputs.add(tuple(batch[0][0].shape[1:]))
        self.held = set(pl_module.parameters())


@dataclass
class Trained:
    net: Net
    steps: Steps
    history: History

    @property
    def state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.net.state_dict()
        return state


def train(net: Net, splits: Splits, behind: Behind | None, config: Finetune = STEADY, **options: Any) -> Trained:
    """A copy of `net` with its freeze depth."""
    copy, steps = deepcopy(net), Steps()
    settings: dict[str, Any] = {"lr": 1e-3, "batch_size": 4, "seed": 7} | options
    history = fit(
        copy, splits, config, recorder=ListRecorder(), label="test", behind=behind, callbacks=[steps], **settings
    )
    return Trained(copy, steps, history)


def keep(net: Net, splits: Splits, folder: Path, config: Activations = EXACT) -> Behind:
    return embed(Cache(config, folder), deepcopy(net), splits, {net.freeze_depth})[net.freeze_depth]


def build(backbone: str, side: int = 32, weights: str = "none") -> Net:
    """Where weights are random, BatchNorm is as after training: statistics of what it saw, affine parameters drawn."""
    spec = backbones.spec(backbone)
    card = ModelCard(backbone, ["blue", "green", "red"], side, "squash", list(spec.mean), list(spec.std), dropout=0.1)
    net = classifier.build(card, weights, seed=0)
    if weights == "none":
        generator = torch.Generator().manual_seed(1)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(norm.bias, -0.3, 0.3, generator=generator)
            norm.momentum = None  # the mean of all batches, so that one is enough
        with torch.no_grad():
            net.train()(torch.randint(0, 256, (16, 3, side, side), generator=generator).float())
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return net


def frozen(net: Net, depth: int) -> dict[str, torch.Tensor]:
    prefixes = tuple(f"blocks.{index}." for index in range(depth))
    return {name: value.clone() for name, value in net.state_dict().items() if name.startswith(prefixes)}


def tiles(count: int, views: int, side: int, seed: int) -> Arrays:
    """8 x 8 random tiles, brighter in the channel of the class. Images that differ much: where BatchNorm sees next to
    no variance, it makes numbers of the noise of rounding."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    drawn = rng.integers(0, 156, (count, views, 8, 8, 3), dtype=np.uint8)
    pixels = drawn.repeat(side // 8, axis=2).repeat(side // 8, axis=3)
    pixels[np.arange(count), ..., labels] += 100
    return Arrays(pixels, labels, [f"{row}.png" for row in range(count)], ["blue", "green", "red"])


def small(side: int = 32) -> Splits:
    """With batches of four, ten steps an epoch."""
    return Splits(tiles(40, 2, side, seed=0), tiles(15, 1, side, seed=1), HASHES)


def assert_same(net: Net, depth: int, splits: Splits, folder: Path, **options: Any) -> None:
    net = net.double()
    round_boundary(net, depth)
    net.freeze(depth)
    options["config"] = exactly(STEADY)
    before = frozen(net, depth)
    ways = train(net, splits, None, **options), train(net, splits, keep(net, splits, folder), **options)
    run_again, kept = ways
    assert len(run_again.steps.losses) == 20
    assert run_again.steps.inputs == {splits.train.images.shape[2:]}
    assert kept.steps.inputs == {keep(net, splits, folder).train.stored.values.shape[2:]}
    assert kept.steps.rows == run_again.steps.rows
    assert abs(np.mean(run_again.steps.losses[:10]) - np.mean(run_again.steps.losses[-10:])) > 1e-3
    np.testing.assert_allclose(kept.steps.losses, run_again.steps.losses, rtol=CLOSE)

    assert kept.history.best_epoch == run_again.history.best_epoch
    for one, other in zip(kept.history.epochs, run_again.history.epochs, strict=True):
        assert one == pytest.approx(other, rel=METRIC)
    for name, value in run_again.state.items():
        torch.testing.assert_close(kept.state[name], value, rtol=CLOSE, atol=CLOSE)
    for way in ways:
        assert before
        assert all(torch.equal(value, way.state[name]) for name, value in before.items())
        assert not torch.equal(way.net.head.linear.weight, net.head.linear.weight)


@pytest.mark.parametrize("backbone", MIDDLE)
def test_every_step_is_the_same_and_what_is_frozen_stays(backbone: str, tmp_path: Path) -> None:
    """Frozen blocks are run four images at once in training, and more where what they give is kept."""
    assert activations.BATCH > 4
    assert_same(build(backbone), MIDDLE[backbone], small(), tmp_path / "cache")


def test_the_head_alone_is_trained_the_same(tmp_path: Path) -> None:
    assert_same(build("efficientnet_lite0", weights="pretrained"), 9, small(), tmp_path / "cache", lr=3e-3)


def test_a_module_behind_kept_activations_holds_nothing_frozen(tmp_path: Path) -> None:
    splits = small()
    net = build("mobilenet_v3_small")
    net.freeze(6)
    kept = train(net, splits, keep(net, splits, tmp_path / "cache"), STEADY.model_copy(update={"epochs": 1}))
    above = {*(weight for block in kept.net.blocks[6:] for weight in block.parameters()), *kept.net.head.parameters()}
    assert kept.steps.held == above
    assert all(weight.requires_grad for weight in above)


def test_what_is_left_is_the_whole_classifier(tmp_path: Path) -> None:
    splits = small()
    net = build("mobilenet_v3_small")
    net.freeze(6)
    kept = train(net, splits, keep(net, splits, tmp_path / "cache"), STEADY.model_copy(update={"epochs": 2}))
    assert list(kept.state) == list(net.state_dict())
    classifier.save(kept.net, kept.net.card, tmp_path / "model")
    loaded, _ = classifier.load(tmp_path / "model")
    clean = splits.val.images[:, 0]
    logits = classifier.predict_logits(kept.net, clean, 15)
    np.testing.assert_array_equal(classifier.predict_logits(loaded, clean, 15), logits)
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(splits.val.labels))
    # Two logits that are off by as much move a cross-entropy by twice that at most.
    bound = 2 * ROUNDING * float(np.abs(logits).max())
    assert float(loss) == pytest.approx(kept.history.best["val_loss"], rel=METRIC, abs=bound)


# --- the real sample ------------------------------------------------------------------------


def textile(rows: Sequence[int], side: int) -> Arrays:
    """Those of each class's files, and for a second view the image mirrored."""
    root, resize = Path(textile_simulated_root()), Resize(side)
    classes = ["global", "local", "nominal"]
    files = [sorted((root / name).glob("*.jpg"))[row] for row in rows for name in classes]
    clean = [resize(torch.from_numpy(images.decode(images.read(file)))[None])[0].permute(1, 2, 0) for file in files]
    pixels = torch.stack(clean).to(torch.uint8).numpy()
    labels = np.arange(len(files), dtype=np.int64) % len(classes)
    return Arrays(np.stack([pixels, pixels[:, :, ::-1]], 1), labels, [file.name for file in files], classes)


def test_kept_in_half_precision_the_real_sample_is_learnt_as_well(tmp_path: Path) -> None:
    splits = Splits(textile(range(60), 96), textile(range(60, 160), 96), HASHES)
    net = build("efficientnet_lite0", 96, "pretrained")
    net.freeze(7)
    behind = keep(net, splits, tmp_path / "cache", Activations(engine="torch"))
    assert behind.train.stored.entry.dtype == behind.val.stored.entry.dtype == "float16"
    config = Finetune(epochs=3, early_stopping=None)
    run_again, kept = (train(net, splits, way, config, lr=1e-3, batch_size=16).history for way in (None, behind))
    assert run_again.epochs[-1]["val_loss"] < 0.7 < run_again.epochs[0]["val_loss"]
    # As well as in float32 it cannot be to the last digits: a few percent of what is learnt, six of the 300 images.
    for one, other in zip(kept.epochs, run_again.epochs, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=0.01)
        assert one["val_macro_f1"] == pytest.approx(other["val_macro_f1"], abs=0.02)
