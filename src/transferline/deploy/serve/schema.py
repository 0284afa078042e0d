"""The OpenAPI schema of /predict and of what else is answered in JSON."""

from typing import Any

from transferline.deploy.serve.bodies import FIELD

_TEXT: dict[str, Any] = {"type": "string"}
_SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


PREDICTION = _object(
    ["probabilities"],
    name={**_TEXT, "description": "the file's name, where one was sent"},
    **{"class": {**_TEXT, "description": "the likeliest class, where an image is in exactly one"}},
    probability={**_SHARE, "description": "of that class"},
    labels={"type": "array", "items": _TEXT, "description": "where an image may have any number of them"},
    probabilities={
        "type": "object",
        "additionalProperties": _SHARE,
        "description": "of each class, the likeliest first; of the `top` likeliest where that was asked for",
    },
)
PREDICTIONS = _object(["predictions"], predictions={"type": "array", "items": PREDICTION, "minItems": 1})
BAD_IMAGE = _object(
    ["index", "name", "reason"],
    index={"type": "integer", "minimum": 0, "description": "its place in the request"},
    name={"type": ["string", "null"]},
    reason=_TEXT,
)
ERROR = _object(["detail"], detail=_TEXT, images={"type": "array", "items": BAD_IMAGE, "minItems": 1})
MODEL = _object(
    ["classes", "backbone", "variant", "input_size", "multilabel", "device"],
    classes={"type": "array", "items": _TEXT, "minItems": 1},
    backbone=_TEXT,
    variant=_TEXT,
    input_size={"type": "integer", "minimum": 1},
    multilabel={"type": "boolean"},
    device=_TEXT,
)
STATE = _object(["status"], status=_TEXT)

REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": _object([FIELD], **{FIELD: {"type": "array", "items": _BINARY, "minItems": 1}})
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}


def answer(description: str, schema: dict[str, Any], **headers: Any) -> dict[str, Any]:
    """A response in JSON."""
    found: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": schema}}}
    return {**found, "headers": headers} if headers else found


RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    408: answer("The body took too long to arrive.", ERROR),
    413: answer("Too many bytes, pixels or images.", ERROR),
    415: answer("Neither a form nor an image.", ERROR),
    422: answer("Not an image, damaged, animated or tiny; or wrong fields.", ERROR),
    503: answer("The queue is full, or the service is stopping.", ERROR, **RETRY),
}
