"""Splits that are learnt in seconds, in a folder of the test's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import ListRecorder
from transferline.artifacts import Arrays, Option, Probed
from transferline.fitting import Finetune
from transferline.model.activations import Cache
from transferline.sections import Activations, Head, Model
from transferline.training import tune
from transferline.training.data import Splits
from transferline.training.fit import History
from transferline.tuning import IntRange, Search, Start, Tune

MODEL = Model(backbone="mobilenet_v3_small", weights="none")
SEARCH = Search(batch_size=(4, 6), freeze_depth=IntRange(low=2, high=13))


@pytest.fixture(scope="session")
def splits(colour_arrays: Callable[..., Arrays]) -> Splits:
    hashes = {"data/augmented/train": "train", "data/augmented/val": "val"}
    return Splits(colour_arrays(48, views=3), colour_arrays(15, seed=1), hashes)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def probed(taps: tuple[int, ...] = (12,)) -> Probed:
    """What a probe could have found of MODEL, whose real one takes seconds."""
    option = Option("last half", 0.1, 0.9, 0.6, [0.5, 0.7])
    return Probed("last half", list(taps), 0.1, [option], [option] * 13, [option] * 13, depth=6)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(_: Any, __: Arrays, head: Head, ___: int) -> Probed:
        return probed(() if head.features == "last" else (12,))

    monkeypatch.setattr(tune, "probe", quick)


def tuner(
    splits: Splits, trials: int | Literal["auto"], recorder: ListRecorder | None = None, **options: Any
) -> tune.Tuner:
    """A tuner, its probe behind it. `options` are of the tune section, or, by their names, of finetune."""
    search: Any = options.pop("search", SEARCH)
    default = Start(lr=1e-3, batch_size=min(search.batch_size), freeze_depth=max(search.freeze_depth.low, 3))
    start = options.pop("start", default)
    model, cache = options.pop("model", MODEL), options.pop("cache", Cache(Activations(mode="off")))
    of_tune = {name: options.pop(name) for name in list(options) if name in Tune.model_fields}
    config = Tune(trials=trials, search=search, start=start, **{"objective": "macro_f1"} | of_tune)
    finetune = Finetune(**{"epochs": 1} | options)
    made = tune.Tuner(
        splits, model, config, finetune, seed=3, data_key="data", cache=cache, recorder=recorder or ListRecorder()
    )
    made.probe()
    return made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each trial's training was asked for; the training itself is left out."""
    calls: list[dict[str, Any]] = []

    def pretend(net: Any, splits: Splits, config: Any, **options: Any) -> History:
        calls.append({"net": net, "config": config, **options})
        score = 1 - abs(options["lr"] - 2e-3)
        return History([{"val_macro_f1": score, "val_loss": -score}])

    monkeypatch.setattr(tune, "adapt", pretend)
    return calls
