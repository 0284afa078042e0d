"""The tune section: its space, in which every choice of training can be searched by its own name."""

import operator
from collections.abc import Callable, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, Field, Strict, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from transferline.errors import UserError
from transferline.fitting import Fit, Objective, needs_pairs
from transferline.mistakes import explain
from transferline.policy import Section
from transferline.sections import Head, Model

MAX_LR = 10.0
# By rule, what the trials together may cost, and training once more on train and validation: so many forward passes of
# the whole backbone for each training image. Sets of fewer than LEAST_IMAGES get as much as one of so many. A refit of
# the sample at freeze depth 3 costs 4.01 and gains macro-F1; on the benchmark's other sets it costs 2.4 at most.
SEARCH_PASSES, REFIT_PASSES, LEAST_IMAGES = 3.75, 4.25, 2000
# What belongs to the machine, or to how long and by what trials are judged, which must be the same for all.
_SAME_FOR_ALL = {
    *("epochs", "early_stopping", "early_stopping_monitor", "monitor"),
    *("precision", "accelerator", "devices", "channels_last", "checkpoint_share"),
}
_OF_THE_MODEL = ("dropout", "stochastic_depth")
_DECIDED_BY_THE_PROBE = ("features",)
_OF_THE_LOSS = ("loss", "focal_gamma", "class_weights")  # on validation, too
_LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "ge": (operator.ge, "the nearest right value is"),
    "le": (operator.le, "the nearest right value is"),
    "gt": (operator.gt, "it must be above"),
    "lt": (operator.lt, "it must be below"),
}


class FloatRange(Section):
    low: float = Field(description="smallest value tried")
    high: float = Field(description="largest value tried")
    log: bool = Field(False, description="draw on a logarithmic scale")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g}); swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low:g} is out of range; a logarithmic range must start above 0")
        return self


class WholeRange(FloatRange):
    low: int = Field(description="smallest value tried")
    high: int = Field(description="largest value tried")


class IntRange(Section):
    low: int = Field(ge=0, description="smallest value tried")
    high: int | None = Field(None, ge=0, description="largest value tried; null: the number of blocks")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


class Space(Section):
    """What is always searched."""

    lr: FloatRange = Field(FloatRange(low=1e-4, high=1e-2, log=True), description="learning rate of the head")
    batch_size: Annotated[tuple[int, ...], Strict(False)] = Field(
        (8, 16, 32), min_length=1, description="choices; those beyond an eighth of the training images are left out"
    )
    freeze_depth: IntRange = Field(IntRange(low=0), description="how many of the first blocks stay frozen")

    @property
    def further(self) -> dict[str, Any]:
        """What else is searched: name -> FloatRange, WholeRange or the tuple of choices."""
        found = {name: getattr(self, name) for name in type(self).model_fields if name not in Space.model_fields}
        return {name: space for name, space in found.items() if space is not None}

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError(f"{min(sizes)} is no batch size; the smallest is 1")
        return sizes

    @field_validator("lr")
    @classmethod
    def _rate(cls, lr: FloatRange) -> FloatRange:
        if lr.low <= 0:
            raise ValueError(f"low: {lr.low:g} is no learning rate; 1e-6 is the smallest sensible one")
        if lr.high > MAX_LR:
            raise ValueError(f"high: {lr.high:g} is out of range; the nearest right value is {MAX_LR:g}")
        return lr


SEARCHED: dict[str, FieldInfo] = {
    **{name: field for name, field in Fit.model_fields.items() if name not in _SAME_FOR_ALL},
    **{name: Model.model_fields[name] for name in _OF_THE_MODEL},
    **{name: field for name, field in Head.model_fields.items() if name not in _DECIDED_BY_THE_PROBE},
}


def _searched(field: FieldInfo) -> Any:
    """A field's search: a range where it is a number, whose ends the field itself would take; else a list of values."""
    annotation: Any = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    for number, ranged in ((float, FloatRange), (int, WholeRange)):
        if number in kinds:
            return Annotated[ranged, AfterValidator(lambda found: _inside(field, found))]
    value = Annotated[annotation, *field.metadata, Field()]
    return Annotated[tuple[value, ...], Strict(False), Field(min_length=1)]


def _inside(field: FieldInfo, found: FloatRange) -> FloatRange:
    for key, value in (("low", found.low), ("high", found.high)):
        for constraint in field.metadata:
            for name, (fits, words) in _LIMITS.items():
                limit = getattr(constraint, name, None)
                if limit is not None and not fits(value, limit):
                    raise ValueError(f"{key}: {value:g} is out of range; {words} {limit:g}")
    return found


if TYPE_CHECKING:
    Search = Space
else:
    Search = create_model(
        "Search",
        __base__=Space,
        __module__=__name__,
        __doc__="The space that Optuna searches: what is always searched, and any other choice by its name.",
        **{
            name: (_searched(field) | None, Field(None, description="null: not searched"))
            for name, field in SEARCHED.items()
        },
    )


class Start(Section):
    """Values of the first trials, and the answer when there are no trials."""

    lr: float = Field(
        4e-3,
        gt=0,
        le=MAX_LR,
        description="learning rate of the head; where the first trials freeze half of the blocks or more, but not all,"
        " a quarter of it on up to 400 images, half of it from 800 on",
    )
    batch_size: int = Field(16, ge=1, description="images a step")
    freeze_depth: int | None = Field(
        None, ge=0, description="frozen blocks, from the input on; null: as deep as the probe suggests"
    )
    freeze_to: str | None = Field(
        None,
        min_length=1,
        description="or the last frozen block by name, as layer3; `transferline backbones --blocks NAME` lists them",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.freeze_to is not None and self.freeze_depth is not None:
            raise ValueError("freeze_to and freeze_depth both say how deep to freeze; give one of them")
        return self


class Tune(Section):
    """The search. A trial is trained as `finetune` says."""

    trials: int | Literal["auto"] = Field(
        "auto",
        description="trials in all, earlier ones of the same study counted; 0: take `start`; auto: as many as fit into"
        " two to three times the work of a training with half of the blocks frozen, or into `minutes`",
    )
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="for all from tune on to the end of the line; a few steps are timed once, which decides how many"
        " trials of which length fit; null: by rule, without a clock, so that the same images give the same trials",
    )
    objective: Objective = Field("loss", description="on validation; in a trial, monitor is the same")
    pruner: Literal["median", "halving", "none"] = Field(
        "median",
        description="stop a trial of blocks that after two thirds of its epochs is below the median of its peers there"
        " (none of the first ones), or (halving) not among the better third of them",
    )
    start: Start = Field(Start(), description="values of the first trials")
    search: Search = Field(Search(), description="the space that is searched")

    @model_validator(mode="after")
    def _trials_fit(self) -> Self:
        if self.trials not in (0, "auto") and int(self.trials) < 0:
            raise ValueError(f"trials: {self.trials} is out of range; the nearest right value is 0")
        if self.minutes is not None and self.trials != "auto":
            raise ValueError(f"trials: {self.trials} and minutes both say how long to search; set trials: auto")
        return self

    @model_validator(mode="after")
    def _start_lies_inside(self) -> Self:
        lr, depth, start = self.search.lr, self.search.freeze_depth, self.start
        if self.trials == 0:
            return self
        if not lr.low <= start.lr <= lr.high:
            nearest = min(max(start.lr, lr.low), lr.high)
            raise ValueError(f"start.lr: {start.lr:g} is outside search.lr; the nearest right value is {nearest:g}")
        if start.batch_size not in self.search.batch_size:
            nearest = min(self.search.batch_size, key=lambda size: abs(size - start.batch_size))
            raise ValueError(f"start.batch_size: {start.batch_size} is not in search.batch_size; {nearest} is nearest")
        if start.freeze_depth is None:
            return self
        high = max(start.freeze_depth, depth.low) if depth.high is None else depth.high
        if not depth.low <= start.freeze_depth <= high:
            nearest = min(max(start.freeze_depth, depth.low), high)
            raise ValueError(
                f"start.freeze_depth: {start.freeze_depth} is outside search.freeze_depth;"
                f" the nearest right value is {nearest}"
            )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        other = [name for name in _OF_THE_LOSS if name in self.search.further]
        if self.objective == "loss" and other:
            raise ValueError(
                f"objective: loss is not the same loss for trials that differ in {other[0]};"
                f" take objective: macro_f1, or leave {other[0]} out of search"
            )
        return self


def first(config: Tune, finetune: Fit, model: Model) -> dict[str, Any]:
    """Values of the first trials without the depth: `start`, and each other searched key's value in its own section."""
    own = {**dict(model.head), **dict(model), **dict(finetune)}
    return {"lr": config.start.lr, "batch_size": config.start.batch_size} | {
        name: _nearest(own[name], space) for name, space in config.search.further.items()
    }


def _nearest(own: Any, space: Any) -> Any:
    if isinstance(space, FloatRange):
        return space.low if own is None else min(max(own, space.low), space.high)
    return own if own in space else space[0]


_Fit = TypeVar("_Fit", bound=Fit)


def with_choices(config: _Fit, choices: Mapping[str, Any], batch_size: int) -> _Fit:
    """A section with what was chosen by name, checked again. Raises UserError where these contradict each other."""
    given = {name: value for name, value in choices.items() if name in Fit.model_fields}
    section = type(config).__name__.lower()
    try:
        checked = type(config).model_validate(config.model_dump() | given)
        needs_pairs(checked, batch_size)
    except ValidationError as error:
        raise explain(section, type(config), error) from None
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        raise UserError(f"{section}: {what}", fix) from None
    return checked


def model_with(model: Model, choices: Mapping[str, Any]) -> Model:
    """The model section with what was chosen of it and of its head. Raises UserError as `with_choices` does."""
    own = {name: value for name, value in choices.items() if name in _OF_THE_MODEL}
    head = model.head.model_dump() | {name: value for name, value in choices.items() if name in Head.model_fields}
    try:
        return Model.model_validate(model.model_dump() | own | {"head": head})
    except ValidationError as error:
        raise explain("model", Model, error) from None
