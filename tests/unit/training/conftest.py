"""Splits that are learnt in seconds, in a folder of the test's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ListRecorder
from transferline.artifacts import Arrays
from transferline.model.activations import Cache
from transferline.sections import Activations, Model
from transferline.training import tune
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.tuning import IntRange, Search, Start, Tune

MODEL = Model(backbone="mobilenet_v3_small", weights="none")
SEARCH = Search(batch_size=(8, 16, 32), freeze_depth=IntRange(low=2, high=13))


@pytest.fixture(scope="session")
def splits(colour_arrays: Callable[..., Arrays]) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(colour_arrays(48, views=3), colour_arrays(15, seed=1), hashes)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def tuner(splits: Splits, trials: int, recorder: ListRecorder | None = None, **options: Any) -> tune.Tuner:
    search: Any = options.pop("search", SEARCH)
    default = Start(batch_size=max(search.batch_size), freeze_depth=max(search.freeze_depth.low, 3))
    start = options.pop("start", default)
    model = options.pop("model", MODEL)
    config = Tune(trials=trials, epochs=1, train_fraction=0.7, search=search, start=start, **options)
    cache = Cache(Activations(mode="off"))
    return tune.Tuner(splits, model, config, seed=3, data_key="data", cache=cache, recorder=recorder or ListRecorder())


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each trial's training was asked for; the training itself is left out."""
    calls: list[dict[str, Any]] = []

    def pretend(net: Any, splits: Splits, config: Any, **options: Any) -> History:
        calls.append({"net": net, "config": config, **options})
        score = 1 - abs(options["lr"] - 2e-3)
        return History([{"val_macro_f1": score, "val_loss": -score}])

    monkeypatch.setattr(tune, "fit", pretend)
    return calls
