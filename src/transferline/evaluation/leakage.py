"""What test images with a near duplicate in train do to the figures, where the user's own split has some."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transferline.artifacts import LEAKAGE, read_json
from transferline.artifacts.files import AGAIN
from transferline.errors import UserError
from transferline.evaluation.bootstrap import headlines
from transferline.evaluation.outcome import DIGITS, Flags, Outcome

_FIGURES = ("accuracy", "macro_f1")


def read(path: Path = LEAKAGE) -> frozenset[str]:
    """Paths of the test images with a twin in train. Raises UserError where prepare's report cannot be read."""
    try:
        return frozenset(pair["test"] for pair in read_json(path)["pairs"])
    except (KeyError, TypeError):
        raise UserError(f"{path} is not prepare's report on leakage", AGAIN) from None


def compare(outcome: Outcome, paths: Sequence[str], leaking: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Accuracy and macro-F1 of all test images and of those that train does not hold, as `leakage`.

    Empty without such images; a figure without them is None where none is left.

    Args:
        paths: of the images of `outcome`, row by row.
    """
    unseen: Flags = np.array([path not in leaking for path in paths], dtype=np.bool_)
    if unseen.all():
        return {}
    figures: dict[str, Any] = {"images": int((~unseen).sum())}
    for suffix, rows in (("with", np.ones_like(unseen)), ("without", unseen)):
        each = np.ones((1, int(rows.sum())))
        found = headlines(each, outcome.members[rows], outcome.calls[rows]) if rows.any() else {}
        for name in _FIGURES:
            figures[f"{name}_{suffix}"] = round(float(found[name][0]), DIGITS) if found else None
    return {"leakage": figures}
