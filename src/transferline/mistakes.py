"""A mistake that pydantic found in params.yaml, in the user's words: the key, the value, the nearest right one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from transferline.errors import UserError, nearest

_EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values, as {{name: horizontal_flip}}",
    "string_too_short": "some text",
    "string_type": "text",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} value",
    "tuple_type": "a list",
    "union_tag_not_found": "a name, as in {{name: horizontal_flip}}",
}
_SEE = "see the README's table of parameters"


@dataclass(frozen=True)
class _Place:
    """Where pydantic's `loc` leads: the key as a user would write it, and the type expected there."""

    key: str
    kind: Any
    separator: str = "."

    def step(self, part: int | str) -> "_Place":
        if isinstance(part, int):
            return replace(self, key=f"{self.key}[{part}]")
        for model in _models(self.kind):
            if part in _tags(model):
                return _Place(f"{self.key} ({part})", model, ": ")
            if part in model.model_fields:
                return _Place(f"{self.key}{self.separator}{part}", model.model_fields[part].annotation)
        return self  # pydantic's own name for a branch of a union


def explain(section: str, kind: Any, error: ValidationError) -> UserError:
    """The message for the first mistake in a section; a wrong key goes before one that is missing for it.

    Args:
        section: name of the section in params.yaml.
        kind: the model, or annotated type, that the section was checked against.
        error: what pydantic raised.
    """
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] == "missing")
    keys = [_place(section, kind, detail).key for detail in details]
    # Where a list may also be a word, as in `policy: auto`, a mistake within the list goes first.
    inner = [not any(other.startswith((f"{key}[", f"{key} (")) for other in keys) for key in keys]
    details = [detail for detail, innermost in zip(details, inner, strict=True) if innermost]
    first, place = details[0], _place(section, kind, details[0])
    if first["type"] in ("extra_forbidden", "invalid_key", "missing"):
        return _wrong_key(place, first)
    alternatives = [detail for detail in details if _place(section, kind, detail).key == place.key]
    return _wrong_value(place.key, alternatives)


def _place(section: str, kind: Any, detail: ErrorDetails) -> _Place:
    """Of the value; for a wrong or missing key, of what should or should not hold it."""
    loc = detail["loc"][:-1] if detail["type"] in ("extra_forbidden", "invalid_key", "missing") else detail["loc"]
    place = _Place(section, kind)
    for part in loc:
        place = place.step(part)
    return place


def _wrong_key(place: _Place, detail: ErrorDetails) -> UserError:
    name = detail["loc"][-1]
    if detail["type"] == "missing" and isinstance(name, int):
        return UserError(f"{place.key}: {_shown(detail['input'])} is too short", "give it as [low, high]")
    if detail["type"] == "missing":
        return UserError(f"{place.key}: '{name}' is missing", f"add it, as in {{{name}: ...}}")
    choices = [key for model in _models(place.kind) for key in model.model_fields]
    return UserError(f"{place.key}: unknown key '{name}'", nearest(str(name), choices))


def _wrong_value(key: str, details: list[ErrorDetails]) -> UserError:
    """`details` are of one value: several where it fits none of the branches of a union."""
    first = details[0]
    value, context = first["input"], first.get("ctx", {})
    match first["type"]:
        case "value_error":
            what, _, fix = str(context["error"]).partition("; ")
            return UserError(f"{key}: {what}", fix)
        case "literal_error" | "union_tag_invalid":
            return _unknown_choice(key, first)
        case "greater_than_equal" | "less_than_equal":
            limit = context.get("ge", context.get("le"))
            return UserError(f"{key}: {_shown(value)} is out of range", f"the nearest right value is {limit:.12g}")
        case "greater_than" | "less_than":
            side, limit = ("above", context["gt"]) if "gt" in context else ("below", context["lt"])
            return UserError(f"{key}: {_shown(value)} is out of range", f"it must be {side} {limit:.12g}")
    expected = " or ".join(_expected(detail) for detail in details)
    return UserError(f"{key}: expected {expected}, got {_shown(value)}", _SEE)


def _unknown_choice(key: str, detail: ErrorDetails) -> UserError:
    given = detail["input"]
    value = given["name"] if isinstance(given, dict) else given
    return UserError(f"{key}: {_shown(value)} is not known", nearest(str(value), _choices(detail)))


def _choices(detail: ErrorDetails) -> list[str]:
    context = detail.get("ctx", {})
    listed = context.get("expected") or context.get("expected_tags", "")
    return [choice.strip(" '") for choice in listed.replace(" or ", ", ").split(",")]


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return " or ".join(f"'{choice}'" for choice in _choices(detail))
    words = _EXPECTED.get(detail["type"])
    return words.format_map(detail.get("ctx", {})) if words else detail["msg"]


def _shown(value: Any) -> str:
    """As it stands in YAML, near enough, and short."""
    if isinstance(value, str):
        return f"'{value}'"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, at any depth."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """The names that pick a model out of a union of several, as `rotation`."""
    return get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
