"""Fixed-seed numbers: a refactor must not move them. Rewrite with `pytest tests/golden --rewrite-golden`."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ListRecorder
from tests.line.conftest import make_images
from transferline.artifacts import Arrays, Best, read_arrays
from transferline.data import arrays, manifest, sources
from transferline.fitting import Finetune, Train
from transferline.model.activations import Cache
from transferline.policy import Contrast, HorizontalFlip, Rotation
from transferline.sections import Activations, Model, Prepare, Split
from transferline.training.data import Splits
from transferline.training.stages import finetune, train_head

NUMBERS = Path(__file__).with_name("numbers.json")
POLICY = (Rotation(name="rotation"), HorizontalFlip(name="horizontal_flip"), Contrast(name="contrast", p=0.5))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare with the number kept under a name; with --rewrite-golden, keep it instead."""

    def check(name: str, value: Any) -> None:
        kept = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
        if request.config.getoption("--rewrite-golden"):
            NUMBERS.write_text(json.dumps(kept | {name: value}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        else:
            # Processors differ in the last digits of a convolution, and training multiplies them.
            assert value == pytest.approx(kept[name], rel=2e-3, abs=2e-3)

    return check


def test_split_and_views(golden: Callable[[str, Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    rows = manifest.build(sources.scan(tmp_path / "images"), Split(), Prepare(), 7).rows
    assert Counter(row.split for row in rows) == {"train": 30, "val": 6, "test": 6}
    golden("test paths", dict.fromkeys(sorted(row.path for row in rows if row.split == "test"), 1))
    arrays.write(rows, tmp_path / "images", arrays.Recipe(32, "crop", 2, POLICY, 7), workers=0)
    means = read_arrays("train").images.mean(axis=(0, 2, 3, 4)).tolist()
    golden("mean grey level of each view", means)


def test_losses(
    golden: Callable[[str, Any], None],
    colour_arrays: Callable[..., Arrays],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    splits = Splits(colour_arrays(48, views=2), colour_arrays(15, seed=1), hashes)
    best = Best(lr=1e-3, batch_size=16, freeze_depth=2, value=None, study="", run_id="")
    model, recorder = Model(backbone="efficientnet_lite0", dropout=0.0), ListRecorder()
    cache = Cache(Activations(mode="off"))
    train_head(splits, model, Train(), best=best, seed=5, cache=cache, recorder=recorder)
    finetune(splits, Finetune(epochs=2), best=best, seed=5, cache=cache, recorder=recorder)
    golden("losses", [row[name] for _, row in recorder.metrics for name in ("train_loss", "val_loss")])
