"""report.html: the whole evaluation in one file that opens offline and can be handed on."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from transferline.artifacts import Arrays, Best, ModelCard, SplitName, write_text
from transferline.evaluation import metrics, pictures
from transferline.evaluation.calibration import reliability
from transferline.evaluation.outcome import Outcome
from transferline.sections import Evaluate

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = ("confusion.png", "reliability.png", "pr_curves.png", "mistakes.png")
NOT_OF_THE_MODEL = {"study", "run_id", "value"}  # of best.json: ids, and what only tune can compare


def write(
    folder: Path,
    outcome: Outcome,
    scores: Mapping[str, Any],
    *,
    splits: Mapping[SplitName, Arrays],
    card: ModelCard,
    best: Best,
    options: Evaluate,
) -> None:
    """Write report.html into `folder`, and beside it the pictures that it contains.

    Args:
        outcome: of the images of `splits["test"]`, row by row.
        scores: as metrics.evaluate gives them.
    """
    _write_pictures(folder, outcome, splits["test"], options)
    size = len(outcome.classes)
    text = (
        _environment()
        .get_template("report.html")
        .render(
            scores=scores,
            summary=_summary(outcome),
            splits={name: np.bincount(part.labels, minlength=size).tolist() for name, part in splits.items()},
            mistakes=_mistakes(outcome, splits["test"].paths, options.gallery),
            configuration=_configuration(card, best),
            pictures={name: _embedded(folder / name) for name in PICTURES},
        )
    )
    write_text(folder / "report.html", text)


def _write_pictures(folder: Path, outcome: Outcome, test: Arrays, options: Evaluate) -> None:
    before = reliability(outcome.uncalibrated, outcome.labels, options.calibration_bins)
    after = reliability(outcome.probabilities, outcome.labels, options.calibration_bins)
    figures = (
        pictures.draw_confusion(metrics.confusion(outcome), outcome.classes),
        pictures.draw_reliability(before, after, outcome.temperature),
        pictures.draw_pr_curves(metrics.precision_recall_curves(outcome)),
        pictures.draw_mistakes(outcome, test.images[:, 0], options.gallery),
    )
    for name, figure in zip(PICTURES, figures, strict=True):
        pictures.save(figure, folder / name)
    pictures.write_confusion_csv(outcome, folder / "confusion.csv")


def headline(scores: Mapping[str, Any]) -> str:
    """The one number and its 95 % interval, as 'macro-F1 0.985 (0.970-0.996) on 300 test images'."""
    low, high = scores["intervals"]["macro_f1"]
    return f"macro-F1 {scores['macro_f1']:.3f} ({low:.3f}-{high:.3f}) on {scores['images']} test images"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}".replace("%", "\N{NO-BREAK SPACE}%")
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.4f}"
    return environment


def _summary(outcome: Outcome) -> dict[str, Any]:
    """What the sentences at the top say: how many are wrong, and which pair of classes is confused most."""
    pairs, counts = np.unique(
        np.stack([outcome.labels, outcome.predicted])[:, outcome.mistakes], axis=1, return_counts=True
    )
    summary: dict[str, Any] = {"wrong": len(outcome.mistakes), "confused": None}
    if len(counts):
        worst = int(counts.argmax())
        actual, predicted = (outcome.classes[index] for index in pairs[:, worst])
        summary["confused"] = {"actual": actual, "predicted": predicted, "images": int(counts[worst])}
    return summary


def _mistakes(outcome: Outcome, paths: list[str], limit: int) -> list[dict[str, Any]]:
    return [
        {
            "path": paths[row],
            "actual": outcome.classes[outcome.labels[row]],
            "predicted": outcome.classes[outcome.predicted[row]],
            "probability": outcome.confidences[row],
        }
        for row in outcome.mistakes[:limit]
    ]


def _configuration(card: ModelCard, best: Best) -> dict[str, dict[str, Any]]:
    model = {name: value for name, value in asdict(card).items() if name not in ("classes", "head")}
    model |= card.head.model_dump()
    training = {name: value for name, value in asdict(best).items() if name not in NOT_OF_THE_MODEL}
    choices = training.pop("choices")
    return {"Model": model, "Training": training | choices}


def _embedded(path: Path) -> str:
    """The PNG as a data URI, so that the report needs no second file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
