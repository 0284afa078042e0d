"""Fixed-seed numbers: a refactor must not move them. Rewrite with `pytest tests/golden --rewrite-golden`."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.conftest import ListRecorder
from tests.line.conftest import make_images
from transferline.artifacts import WINNER, Arrays, Best, Option, Plan, Probed, read_arrays
from transferline.data import arrays, manifest, sources
from transferline.fitting import Finetune, Train
from transferline.model.activations import Cache
from transferline.policy import Contrast, HorizontalFlip, Rotation
from transferline.sections import Activations, Head, Model, Prepare, Split
from transferline.training import fit
from transferline.training.data import Splits
from transferline.training.stages import finetune, train_head

NUMBERS = Path(__file__).with_name("numbers.json")
POLICY = (Rotation(name="rotation"), HorizontalFlip(name="horizontal_flip"), Contrast(name="contrast", p=0.5))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare with the number kept under a name; with --rewrite-golden, keep it instead."""

    def check(name: str, value: Any, **bound: float) -> None:
        kept = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
        if request.config.getoption("--rewrite-golden"):
            NUMBERS.write_text(json.dumps(kept | {name: value}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        else:
            assert value == pytest.approx(kept[name], **bound)

    return check


def test_split_and_views(golden: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    rows = manifest.build(sources.scan(tmp_path / "images"), Split(), Prepare(), 7).rows
    assert Counter(row.split for row in rows) == {"train": 30, "val": 6, "test": 6}
    golden("test paths", dict.fromkeys(sorted(row.path for row in rows if row.split == "test"), 1))
    arrays.write(rows, tmp_path / "images", arrays.Recipe(32, "crop", 2, POLICY, 7), workers=0)
    means = read_arrays("train").images.mean(axis=(0, 2, 3, 4)).tolist()
    # A transform's float32 is off by some 1e-4 of a grey level at most, and so is the share of pixels that are rounded
    # to another one.
    golden("mean grey level of each view", means, rel=0, abs=1e-3)


def test_losses(
    golden: Callable[..., None],
    colour_arrays: Callable[..., Arrays],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In double precision, in which processors agree but for what the head is standardised by: float32 features.

    Of these a processor changes the seventh digit, and a few steps through BatchNorm magnify it by some thousands.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit, "pick_precision", lambda _: "64-true")
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    splits = Splits(colour_arrays(48, views=2), colour_arrays(15, seed=1), hashes)
    best = Best(lr=1e-4, batch_size=16, freeze_depth=6, value=None, study="", run_id="")
    model, recorder = Model(backbone="efficientnet_lite0", dropout=0.0, head=Head(hidden=(8,))), ListRecorder()
    given: dict[str, Any] = {"best": best, "seed": 5, "cache": Cache(Activations(mode="off")), "recorder": recorder}
    option = Option("last", 0.1, 0.9, 0.6, [0.5, 0.7])
    given |= {
        "probed": Probed("last", [], 0.1, [option], [option], [option], depth=2),
        "plan": Plan("multiply-adds", 48, 2, [1.0] * 17, 0.0, 0, 1.0, [], 1.0, refit=True),
    }
    WINNER.parent.mkdir(parents=True, exist_ok=True)
    save_file({}, WINNER)
    train_head(splits, model, Train(), **given)
    finetune(splits, Finetune(epochs=2), **given)
    golden(
        "losses",
        [row[name] for _, row in recorder.metrics for name in ("train_loss", "val_loss") if name in row],
        rel=1e-3,
    )
