"""The space of the tune section in Optuna's terms."""

import json
from typing import Any

import optuna

from transferline.tuning import FloatRange, Search, Tune, WholeRange


def within_data(config: Tune, images: int) -> Tune:
    """Without batch sizes that make fewer than eight steps an epoch, as far as one is left."""
    sizes, start = config.search.batch_size, config.start
    fitting = tuple(size for size in sizes if 8 * size <= images) or (min(sizes),)
    search = config.search.model_copy(update={"batch_size": fitting})
    nearest = min(fitting, key=lambda size: abs(size - start.batch_size))
    return config.model_copy(update={"search": search, "start": start.model_copy(update={"batch_size": nearest})})


def suggest(trial: optuna.Trial, name: str, space: Any) -> Any:
    if isinstance(space, WholeRange):
        return trial.suggest_int(name, space.low, space.high, log=space.log)
    if isinstance(space, FloatRange):
        return float(trial.suggest_float(name, space.low, space.high, log=space.log))
    named = {_named(value): value for value in space}
    return named[trial.suggest_categorical(name, list(named))]


def _named(value: Any) -> Any:
    """A choice as Optuna keeps it, which has no lists."""
    return json.dumps(value) if isinstance(value, tuple) else value


def as_optuna(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _named(value) for name, value in values.items()}


def as_given(value: Any, search: Search, name: str) -> Any:
    """Convert a value from Optuna to the form it has in best.json."""
    choices = search.further.get(name, ())
    return json.loads(value) if isinstance(choices, tuple) and any(isinstance(one, tuple) for one in choices) else value
