"""best.json, choice.json, model.json and runs/<stage>.json come back as they were; broken ones are named."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from transferline import artifacts
from transferline.artifacts import Best, Candidate, Choice, ModelCard, RunRecord
from transferline.errors import UserError
from transferline.sections import Head

BEST = Best(lr=1e-3, batch_size=32, freeze_depth=0, value=0.98, study="study-1", run_id="abc")
CHOICE = Choice(
    candidates=[
        Candidate("probe", 0.5, 0.8, 0.75, 0.1, 0.03),
        Candidate("tuned", 0.4, 0.9, 0.85, 0.0, 0.0),
    ],
    chosen="tuned",
    reason="Its loss is 0.1 lower, more than one standard error (0.03).",
    refit=True,
)
CARD = ModelCard(
    backbone="resnet18",
    classes=["local", "nominal é", "a/b"],
    input_size=64,
    resize="pad",
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
    dropout=0.2,
    head=Head(pooling="max", hidden=(64, 32), activation="gelu", norm="layer"),
    stochastic_depth=0.1,
    task="multilabel",
)


@pytest.mark.parametrize(
    "best",
    [BEST, replace(BEST, value=None), replace(BEST, choices={"dropout": 0.1, "optimizer": "sgd", "hidden": [64]})],
)
def test_best_comes_back(tmp_path: Path, best: Best) -> None:
    artifacts.write_best(best, tmp_path / "best.json")
    assert artifacts.read_best(tmp_path / "best.json") == best


def test_best_is_flat_but_for_what_else_was_chosen(tmp_path: Path) -> None:
    """DVC tracks its keys one by one."""
    artifacts.write_best(BEST, tmp_path / "best.json")
    written = artifacts.read_json(tmp_path / "best.json")
    assert {"lr", "batch_size", "freeze_depth", "value", "study", "run_id"} <= set(written)
    assert [key for key, value in written.items() if isinstance(value, dict | list)] == ["choices"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("batch_size", 0),
        ("batch_size", 16.5),
        ("batch_size", None),
        ("freeze_depth", -1),
        ("freeze_depth", "2"),
        ("choices", [0.1]),
    ],
)
def test_best_out_of_range_names_key_and_value(tmp_path: Path, key: str, value: Any) -> None:
    artifacts.write_best(replace(BEST, **{key: value}), tmp_path / "best.json")
    with pytest.raises(UserError) as caught:
        artifacts.read_best(tmp_path / "best.json")
    assert caught.value.what == f"{tmp_path / 'best.json'}: {key}: {value!r} is out of range"


def test_choice_comes_back(tmp_path: Path) -> None:
    artifacts.write_choice(CHOICE, tmp_path / "choice.json")
    assert artifacts.read_choice(tmp_path / "choice.json") == CHOICE
    assert CHOICE.candidate.val_loss == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": "other"}, "does not fit: no candidate is named 'other'"),
        ({"refit": "yes"}, "refit: 'yes' is out of range"),
        ({"candidates": [{"name": "probe"}]}, "does not fit: .*missing"),
        ({"candidates": None}, "does not fit: "),
        ({"candidates": [asdict(CHOICE.candidates[1]) | {"val_loss": "low"}]}, "candidates.0.val_loss: 'low' is out"),
    ],
)
def test_a_choice_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    artifacts.write_json(tmp_path / "choice.json", asdict(CHOICE) | changes)
    with pytest.raises(UserError, match=rf"choice\.json:? {message}"):
        artifacts.read_choice(tmp_path / "choice.json")


@pytest.mark.parametrize("content", [{"lr": 1e-3}, {"colour": "red"}, [1, 2], None])
def test_a_record_with_other_keys_is_named(tmp_path: Path, content: Any) -> None:
    for name in ("best", "model", "train"):
        artifacts.write_json(tmp_path / f"{name}.json", content)
    with pytest.raises(UserError, match=r"best\.json does not fit: "):
        artifacts.read_best(tmp_path / "best.json")
    with pytest.raises(UserError, match=r"model\.json does not fit: "):
        artifacts.read_card(tmp_path)
    with pytest.raises(UserError, match=r"train\.json does not fit: "):
        artifacts.read_run("train", tmp_path)


def test_card_comes_back(tmp_path: Path) -> None:
    artifacts.write_card(CARD, tmp_path / "head")
    assert artifacts.read_card(tmp_path / "head") == CARD
    assert (tmp_path / "head" / "model.json").is_file()


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.json is missing"):
        artifacts.read_card(tmp_path)


def test_run_comes_back(tmp_path: Path) -> None:
    record = RunRecord("train", "run", "parent", {"data/augmented": "ab", "models/tune/best.json": "cd"})
    artifacts.write_run(record, tmp_path)
    assert artifacts.read_run("train", tmp_path) == record


def test_a_stage_that_has_not_run_has_no_record(tmp_path: Path) -> None:
    assert artifacts.read_run("train", tmp_path) is None
