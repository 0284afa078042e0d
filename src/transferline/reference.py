"""Every parameter as Markdown tables, generated from the models that check params.yaml."""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from transferline import config, policy, sections
from transferline.fitting import Finetune, Fit, Train
from transferline.tuning import SEARCHED, FloatRange, Search, Tune

_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_NAMES: dict[Any, str] = {
    bool: "`true`, `false`",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "`null`",
    policy.Transform: "transform",
}
_HEADER = "| key | type, range or choices | default | meaning |\n| --- | --- | --- | --- |"


class Parameter(NamedTuple):
    """One row: a dotted key with its type, default and meaning, each fit for a table's cell."""

    key: str
    kind: str
    default: str
    description: str


def markdown() -> str:
    """One table a section of params.yaml, then one of the augmentation policy's transforms.

    What the loops of training have in common stands once, before the first of them.
    """
    parts = []
    for name, kind in config.SECTIONS.items():
        if kind is Tune:
            parts.append(_table("train and finetune", _shared()))
        parts.append(_section(name, kind))
        if kind is Tune:
            parts.append(_searched())
    return "\n\n".join([*parts, _transforms()]) + "\n"


def parameters(model: type[BaseModel], default: BaseModel | None = None, prefix: str = "") -> Iterator[Parameter]:
    """The fields of a model, those of models within it flattened to dotted keys.

    Args:
        model: a model of a part of params.yaml.
        default: the instance that stands where nothing is given; its values are the defaults shown.
        prefix: of the keys.
    """
    for name, field in model.model_fields.items():
        value = getattr(default, name) if default else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            yield from parameters(type(value), value, f"{prefix}{name}.")
        else:
            yield Parameter(prefix + name, _kind(field), _value(value), field.description or "")


def _section(name: str, kind: type) -> str:
    if not issubclass(kind, BaseModel):
        seed = _kind(FieldInfo.from_annotation(sections.Seed))
        return _table(
            name, [Parameter(name, seed, _value(sections.DEFAULT_SEED), "of every random choice in the line")]
        )
    known = {*(_shared() if issubclass(kind, Fit) else ())}
    rows = [row for row in parameters(kind) if row not in known and not _is_searched(row)]
    return _table(name, rows) if rows else f"#### {name}\n\n{inspect.getdoc(kind)}"


def _shared() -> list[Parameter]:
    """The keys that at least one of the loops has just as Fit has them."""
    kept = {row for kind in (Tune, Train, Finetune) for row in parameters(kind)}
    return [row for row in parameters(Fit) if row in kept]


def _is_searched(row: Parameter) -> bool:
    return row.key.removeprefix("search.") in SEARCHED and row.key.startswith("search.")


def _searched() -> str:
    """What else the space takes, which repeats the keys that it is named after."""
    ranges: list[str] = []
    lists: list[str] = []
    for name in SEARCHED:
        into = ranges if FloatRange.model_fields.keys() <= _keys(Search.model_fields[name].annotation) else lists
        into.append(f"`{name}`")
    return (
        f"`search` also takes, by its name, any number of {', '.join(ranges)} as `{{low, high, log}}`, and any choice"
        f" of {', '.join(lists)} as a list of values, as `optimizer: [adamw, sgd]`. Each must be a value that the key"
        " itself, there or in `model`, may have. What is not searched stays as `finetune` or `model` says; the first"
        " trial takes what the section says of what is searched, too, or the nearest in the space."
    )


def _keys(annotation: Any) -> set[str]:
    """Of the models that an annotation names."""
    fields = getattr(annotation, "model_fields", {})
    return set(fields).union(*(_keys(part) for part in get_args(annotation)))


def _transforms() -> str:
    """Each transform's own keys; those that all have are said once."""
    rows = []
    for model in get_args(get_args(policy.Transform)[0]):
        (name,) = get_args(model.model_fields["name"].annotation)
        own = [parameter for parameter in parameters(model) if parameter.key not in {"name", "enabled"}]
        rows += [parameter._replace(key=f"{name}: {parameter.key}") for parameter in own]
    return (
        _table("augment.policy", rows)
        + "\n\nEach transform also takes `enabled` (`true`, `false`): false switches it off without deleting it."
    )


def _table(title: str, rows: list[Parameter]) -> str:
    lines = [f"| `{row.key}` | {row.kind} | {row.default} | {row.description} |" for row in rows]
    return "\n".join([f"#### {title}", "", _HEADER, *lines])


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_number(getattr(constraint, name))}"
        for constraint in field.metadata
        for name, sign in _BOUNDS
        if getattr(constraint, name, None) is not None
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return _list(arguments[0]) if arguments[-1] is Ellipsis else "[low, high]"
    if origin is Annotated:
        return _type(arguments[0])
    if arguments:
        return " or ".join(_kind(FieldInfo.from_annotation(part)) for part in arguments)
    return "{" + ", ".join(annotation.model_fields) + "}"


def _list(kind: Any) -> str:
    if kind is str:
        return "list of names"
    return f"list of {_type(kind)}{'s' if kind in _NAMES else ''}"


def _value(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    if isinstance(plain, list):
        return f"`[{', '.join(item if isinstance(item, str) else _number(item) for item in plain)}]`"
    if isinstance(plain, bool) or plain is None:
        return f"`{str(plain).lower() if plain is not None else 'null'}`"
    return f"`{plain if isinstance(plain, str) else _number(plain)}`"


def _number(value: float) -> str:
    """Short, but exact: 0.0003, 1e-05, 100000000."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
