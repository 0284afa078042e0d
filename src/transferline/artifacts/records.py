"""What passes between stages as small JSON: tune's best, finetune's choice, the model's card, the run's record."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from transferline.artifacts.files import again, read_json, unfit, write_json
from transferline.artifacts.paths import BEST, CHOICE, PLAN, PROBE, RUNS
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


# finetune writes these names; evaluate looks for the probe's.
LINEAR_PROBE, FINE_TUNED = "linear probe", "fine-tuned"


@dataclass(frozen=True)
class Candidate:
    """A model that finetune could choose, judged on validation.

    Attributes:
        name: LINEAR_PROBE or FINE_TUNED.
        difference: of `val_loss` to that of the best candidate, paired image by image.
        standard_error: of `difference`.
    """

    name: str
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    difference: float
    standard_error: float


@dataclass(frozen=True)
class Choice:
    """What finetune chose on validation.

    Attributes:
        chosen: the name of one of `candidates`.
        reason: a sentence.
        refit: whether the chosen model was then fitted again, on train and validation together.
    """

    candidates: list[Candidate]
    chosen: str
    reason: str
    refit: bool

    @property
    def candidate(self) -> Candidate:
        """The candidate that was chosen."""
        return next(one for one in self.candidates if one.name == self.chosen)


def write_choice(choice: Choice, path: Path = CHOICE) -> None:
    write_json(path, asdict(choice))


def read_choice(path: Path = CHOICE) -> Choice:
    """Raises UserError where the file is missing or damaged, or no candidate has the chosen name."""
    return _read_record(path, _choice)


def _choice(*, candidates: list[dict[str, Any]], **values: Any) -> Choice:
    made = Choice([Candidate(**one) for one in candidates], **values)
    if made.chosen not in [one.name for one in made.candidates]:
        raise ValueError(f"no candidate is named {made.chosen!r}")
    return made


@dataclass(frozen=True)
class Option:
    """A linear probe on some of the blocks' features, cross-validated on the training images.

    Attributes:
        prior: variance of a logit before any image is seen.
        loss: mean log loss of images that it was not fitted on.
        accuracy: of the same.
        interval: of the accuracy, 95 %.
    """

    name: str
    prior: float
    loss: float
    accuracy: float
    interval: list[float]


@dataclass(frozen=True)
class Probed:
    """What the linear probe found, kept as models/tune/probe.json.

    Attributes:
        features: name of the option taken.
        taps: blocks, from 1, whose features the head sees as well as those of the last block.
        prior: of the option taken.
        options: what the head could have seen.
        upwards: probes on each block and all above it, the first block first.
        alone: probes on each block alone.
        depth: freeze depth below which features stop to help.
    """

    features: str
    taps: list[int]
    prior: float
    options: list[Option]
    upwards: list[Option]
    alone: list[Option]
    depth: int

    @property
    def taken(self) -> Option:
        return next(option for option in self.options if option.name == self.features)


def write_probe(probed: Probed, path: Path = PROBE) -> None:
    write_json(path, asdict(probed))


def read_probe(path: Path = PROBE) -> Probed:
    """Raises UserError where the file is missing or broken."""
    return _read_record(path, Probed)


@dataclass(frozen=True)
class Plan:
    """How long trials are and how many fit, kept as models/tune/plan.json; what follows it needs no clock.

    Attributes:
        unit: of all costs: multiply-adds, or seconds that were measured once.
        images: of train.
        epochs: of each trial, and of finetune.
        costs: of training on one image, at each freeze depth from 0 on.
        overhead: of a trial, whatever it trains.
        trials: how many, where the user says so; null: as many as `budget` holds.
        budget: for all trials.
        first: freeze depths of the first trials.
        refit_budget: for training once more on train and validation together.
        refit: whether that is done.
    """

    unit: Literal["multiply-adds", "seconds"]
    images: int
    epochs: int
    costs: list[float]
    overhead: float
    trials: int | None
    budget: float
    first: list[int]
    refit_budget: float
    refit: bool = False

    def cost(self, depth: int) -> float:
        """Of a whole trial."""
        return self.overhead + self.epochs * self.images * self.costs[depth]


def write_plan(plan: Plan, path: Path = PLAN) -> None:
    write_json(path, asdict(plan))


def read_plan(path: Path = PLAN) -> Plan:
    """Raises UserError where the file is missing or broken."""
    return _read_record(path, Plan)


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
    taps: list[int] = field(default_factory=list)  # earlier blocks, from 1, whose features the head sees


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
        made = TypeAdapter(type(kind(**values))).validate_json(json.dumps(values), strict=True)  # JSON has no tuples
    except ValidationError as error:
        raise unfit(path, error) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit: {error}", again(path)) from None
    return made
