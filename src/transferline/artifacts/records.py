"""What passes between stages as small JSON files: the best of tuning, the model's card, the run's record."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from transferline.artifacts.files import again, read_json, unfit, write_json
from transferline.artifacts.paths import BEST, RUNS
from transferline.errors import UserError
from transferline.sections import Head

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Best:
    """What tune found; `choices` is whatever else was searched, by name."""

    lr: float
    batch_size: int
    freeze_depth: int
    value: float | None  # of the objective; null where nothing was tried
    study: str
    run_id: str
    choices: dict[str, Any] = field(default_factory=dict)


def write_best(best: Best, path: Path = BEST) -> None:
    write_json(path, asdict(best))


def read_best(path: Path = BEST) -> Best:
    """Raises UserError where a key is missing, unknown, of the wrong type or out of range."""
    best = _read_record(path, Best)
    right = {
        "lr": isinstance(best.lr, int | float) and 0 < best.lr < math.inf,
        "batch_size": isinstance(best.batch_size, int) and best.batch_size >= 1,
        "freeze_depth": isinstance(best.freeze_depth, int) and best.freeze_depth >= 0,
        "choices": isinstance(best.choices, dict),
    }
    for key, fits in right.items():
        if not fits:
            raise UserError(f"{path}: {key}: {getattr(best, key)!r} is out of range", again(path))
    return best


@dataclass(frozen=True)
class ModelCard:
    """What is needed to build a classifier again, kept as model.json beside its weights."""

    backbone: str
    classes: list[str]
    input_size: int
    resize: Literal["squash", "crop", "pad"]
    mean: list[float]  # of RGB in 0..1
    std: list[float]
    dropout: float
    head: Head = field(default_factory=Head)
    stochastic_depth: float | None = None
    task: Literal["multiclass", "multilabel"] = "multiclass"


def write_card(card: ModelCard, folder: Path) -> None:
    write_json(folder / "model.json", asdict(card) | {"head": card.head.model_dump(mode="json")})


def read_card(folder: Path) -> ModelCard:
    """Raises UserError where the file is missing or does not describe a model."""
    return _read_record(folder / "model.json", _card)


def _card(*, head: dict[str, Any], **values: Any) -> ModelCard:
    made = ModelCard(**values, head=Head.model_validate(head))
    if made.input_size < 1 or not made.classes or not len(made.mean) == len(made.std) == 3 or 0 in made.std:
        raise ValueError("it describes no model")
    return made


@dataclass(frozen=True)
class RunRecord:
    """Beside each stage's outputs: the MLflow run that wrote them, what it read, and what it wrote for later ones."""

    stage: str
    run_id: str
    parent_id: str
    inputs: dict[str, str]  # path -> sha256, of folders as a whole
    outputs: dict[str, str] = field(default_factory=dict)  # path -> sha256, file by file


def write_run(record: RunRecord, root: Path = RUNS) -> None:
    write_json(root / f"{record.stage}.json", asdict(record))


def read_run(stage: str, root: Path = RUNS) -> RunRecord | None:
    """None where the stage has not run here. Raises UserError where the file is broken."""
    path = root / f"{stage}.json"
    return _read_record(path, RunRecord) if path.exists() else None


def _read_record(path: Path, kind: Callable[..., _Record]) -> _Record:
    """A dataclass from its JSON file.

    Raises:
        UserError: where that is broken, a key is missing or unknown, or a value is of another type.
    """
    values = read_json(path)
    try:
        made = kind(**values)
        TypeAdapter(type(made)).validate_json(json.dumps(values), strict=True)  # as JSON, which has no tuples
    except ValidationError as error:
        raise unfit(path, error) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit: {error}", again(path)) from None
    return made
