"""What evaluate and export say of a model, as later stages read it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from transferline.artifacts.files import again, read_json, unfit
from transferline.artifacts.paths import METRICS, PARITY
from transferline.errors import UserError


class _Known(BaseModel):
    """The types of what is read; other keys are let through."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Metrics(_Known):
    macro_f1: float = 0.0
    ece_calibrated: float = 0.0
    temperature: float = 1.0
    thresholds: dict[str, float] | None = None


class _Parity(_Known):
    passed: bool = False
    images: int = 0
    max_difference: float = 0.0
    mismatches: list[dict[str, Any]] = []
    variant: str = ""
    agreeing: int = 0
    accuracy: float = 0.0
    macro_f1: float = 0.0
    evaluate_accuracy: float = 0.0
    evaluate_macro_f1: float = 0.0
    max_loss: float = 0.0


def read_metrics(*needed: str, path: Path = METRICS) -> dict[str, Any]:
    """evaluate's figures. Raises UserError where one of `needed` is missing, or one of those above is no figure."""
    return _read(path, _Metrics, needed)


def read_parity(path: Path = PARITY) -> dict[str, Any]:
    """export's verdict. Raises UserError where a key of those above is missing or of another type."""
    return _read(path, _Parity, tuple(_Parity.model_fields))


def _read(path: Path, kind: type[_Known], needed: tuple[str, ...]) -> dict[str, Any]:
    values = read_json(path)
    try:
        kind.model_validate(values)
    except ValidationError as error:
        raise unfit(path, error) from None
    for key in needed:
        if key not in values:
            raise UserError(f"{path} lacks '{key}'", again(path))
    return dict(values)
