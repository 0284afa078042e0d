"""report.html: the whole evaluation in one file that opens offline and can be handed on."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from transferline.artifacts import Arrays, Best, Choice, ModelCard, SplitName, write_text
from transferline.evaluation import gain, gallery, metrics, pictures
from transferline.evaluation.calibration import reliability
from transferline.evaluation.label_errors import LabelErrors
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Outcome
from transferline.sections import Evaluate

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = ("confusion.png", "reliability.png", "pr_curves.png", "mistakes.png", "label_errors.png")
LABEL_ERRORS = "label_errors.csv"
NOT_OF_THE_MODEL = {"study", "run_id", "value"}  # of best.json: ids, and what only tune can compare


def write(
    folder: Path,
    outcome: Outcome,
    scores: Mapping[str, Any],
    *,
    splits: Mapping[SplitName, Arrays],
    card: ModelCard,
    best: Best,
    choice: Choice,
    options: Evaluate,
    doubts: LabelErrors | None,
) -> None:
    """Write report.html into `folder`, and beside it the pictures that it contains and the tables behind them.

    Args:
        outcome: of the images of `splits["test"]`, row by row.
        scores: as metrics.evaluate and gain.measure give them.
        choice: what finetune chose.
        doubts: suspected label errors of all splits; None where they were not looked for.
    """
    _write_pictures(folder, outcome, splits, options, doubts)
    (doubts or LabelErrors([])).write(folder / LABEL_ERRORS)
    text = (
        _environment()
        .get_template("multilabel.html" if outcome.multilabel else "report.html")
        .render(
            scores=scores,
            summary=_summary(outcome),
            worth=gain.verdict(scores["gain"], choice),
            choice=choice,
            splits={name: part.counts.tolist() for name, part in splits.items()},
            images={name: len(part.labels) for name, part in splits.items()},
            mistakes=_mistakes(outcome, splits["test"].paths, options.gallery),
            doubts=doubts,
            suspected=doubts.suspected[: options.label_errors] if doubts else [],
            configuration=_configuration(card, best),
            pictures={name: _embedded(folder / name) for name in PICTURES},
        )
    )
    write_text(folder / "report.html", text)


def _write_pictures(
    folder: Path,
    outcome: Outcome,
    splits: Mapping[SplitName, Arrays],
    options: Evaluate,
    doubts: LabelErrors | None,
) -> None:
    before, after = (
        reliability(*outcome.decisions(stated), options.calibration_bins)
        for stated in (outcome.uncalibrated, outcome.probabilities)
    )
    words = pictures.DECISIONS if outcome.multilabel else pictures.IMAGES
    figures = (
        _draw_confusion(outcome),
        pictures.draw_reliability(before, after, outcome.temperature, words),
        pictures.draw_pr_curves(metrics.precision_recall_curves(outcome)),
        gallery.draw_mistakes(outcome, splits["test"].images[:, 0], options.gallery),
        gallery.draw_label_errors(doubts, splits, options.label_errors),
    )
    for name, figure in zip(PICTURES, figures, strict=True):
        pictures.save(figure, folder / name)
    pictures.write_confusion_csv(outcome, folder / "confusion.csv")


def _draw_confusion(outcome: Outcome) -> Figure:
    if isinstance(outcome, Multilabel):
        return pictures.draw_tallies(outcome.tallies, outcome.classes)
    assert isinstance(outcome, Multiclass)
    return pictures.draw_confusion(outcome.confusion, outcome.classes)


def headline(scores: Mapping[str, Any]) -> str:
    """'macro-F1 0.985 (0.970-0.996) on 300 test images, linear probe 0.920, 3 suspected label errors'."""
    low, high = scores["intervals"]["macro_f1"]
    line = f"macro-F1 {scores['macro_f1']:.3f} ({low:.3f}-{high:.3f}) on {scores['images']} test images"
    line += f", linear probe {scores['probe']['macro_f1']:.3f}"
    if suspected := scores.get("label_errors", {}).get("suspected"):
        line += f", {suspected} suspected label error{'s' if suspected > 1 else ''}"
    return line


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
    environment.filters["signed"] = lambda value: f"{value:+.4f}"
    return environment


def _summary(outcome: Outcome) -> dict[str, Any]:
    """What the sentences at the top say: how many images are wrong, and what goes wrong most."""
    cells = outcome.cells()
    wrong = (cells.actual != cells.predicted).any(axis=1)
    summary: dict[str, Any] = {"wrong": int(cells.counts[wrong].sum()), "confused": None}
    if isinstance(outcome, Multilabel):
        return summary | _hardest_label(outcome)
    if wrong.any():
        worst = int(np.where(wrong, cells.counts, 0).argmax())
        (actual,), (predicted,) = outcome.names(cells.actual[worst]), outcome.names(cells.predicted[worst])
        summary["confused"] = {"actual": actual, "predicted": predicted, "images": int(cells.counts[worst])}
    return summary


def _hardest_label(outcome: Multilabel) -> dict[str, Any]:
    """The label with the most wrong decisions; how many of all decisions are right."""
    _, missed, false = outcome.tallies.T
    hardest, decisions = int((missed + false).argmax()), outcome.labels.size
    return {
        "decisions": decisions,
        "right": decisions - int((missed + false).sum()),
        "hardest": outcome.classes[hardest],
        "missed": int(missed[hardest]),
        "false": int(false[hardest]),
    }


def _mistakes(outcome: Outcome, paths: list[str], limit: int) -> list[dict[str, Any]]:
    members, calls, confidences = outcome.members, outcome.calls, outcome.confidences
    return [
        {
            "path": paths[row],
            "actual": ", ".join(outcome.names(members[row])) or pictures.NONE,
            "predicted": ", ".join(outcome.names(calls[row])) or pictures.NONE,
            "probability": confidences[row],
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
