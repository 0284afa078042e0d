"""The file that predict writes: the same in every format, and whole or not there."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from transferline.data.images import ImageError
from transferline.deploy import outputs
from transferline.deploy.answers import Answer
from transferline.deploy.inputs import Input
from transferline.errors import UserError

CLASSES = ["error", "grün", 'a,"b']  # in the order of the model's output
SUFFIXES = [".csv", ".jsonl", ".parquet"]
VALUES = [(0.25, 0.125, 0.625), (float(np.float32(0.1)), 0.75, 2.0**-20), (1.0, 0.0, 0.0)]


def answer(values: tuple[float, ...], labels: list[str] | None = None) -> Answer:
    return Answer(labels, sorted(zip(CLASSES, values, strict=True), key=lambda pair: -pair[1]))


def write(path: Path, outcomes: list[Answer | ImageError], multilabel: bool = False) -> None:
    with outputs.opened(path, CLASSES, multilabel) as sink:
        for index, outcome in enumerate(outcomes):
            sink(Input(f"{index},\n.png", b""), outcome)


def rows(path: Path) -> list[dict[str, object]]:
    """Records as the columns of CSV and Parquet have them, empty fields left out."""
    if path.suffix == ".parquet":
        found = pq.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            found = list(csv.DictReader(stream))
    else:
        found = []
        for text in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(text)
            of_class = {f"p:{name}": value for name, value in record.pop("probabilities", {}).items()}
            found.append(record | of_class | ({"labels": ";".join(record["labels"])} if "labels" in record else {}))
    numbers = {"probability", *(f"p:{name}" for name in CLASSES)}
    return [
        {name: float(value) if name in numbers else value for name, value in row.items() if value not in ("", None)}
        for row in found
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_holds_the_same(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_ROWS", 2)
    path = tmp_path / "new" / f"found{suffix}"
    write(path, [answer(VALUES[0]), ImageError("not an image"), answer(VALUES[1]), answer(VALUES[2])])
    likeliest = ['a,"b', None, "grün", "error"]
    values = [VALUES[0], None, VALUES[1], VALUES[2]]
    for index, row in enumerate(rows(path)):
        if values[index] is None:
            assert row == {"image": "1,\n.png", "error": "not an image"}
            continue
        expected = {f"p:{name}": value for name, value in zip(CLASSES, values[index], strict=True)}
        assert row == {
            "image": f"{index},\n.png",
            "class": likeliest[index],
            "probability": max(values[index]),
            **expected,
        }
    if suffix == ".parquet":
        assert pq.ParquetFile(path).num_row_groups == 2
        assert pq.read_schema(path).names == [
            "image",
            "class",
            "probability",
            *(f"p:{name}" for name in CLASSES),
            "error",
        ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_holds_label_sets(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"found{suffix}"
    write(path, [answer(VALUES[0], ["grün", 'a,"b']), answer(VALUES[2], [])], multilabel=True)
    first, second = rows(path)
    assert sorted(str(first["labels"]).split(";")) == ['a,"b', "grün"]
    assert "labels" not in second
    assert "class" not in first
    assert second["p:error"] == 1.0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_failure_leaves_what_was_there_before(tmp_path: Path, suffix: str, before: str | None) -> None:
    path = tmp_path / f"found{suffix}"
    if before:
        path.write_text(before)

    def stopped() -> None:
        with outputs.opened(path, CLASSES, False) as sink:
            sink(Input("a.png", b""), answer(VALUES[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == ({path.name: before} if before else {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_images_are_a_file_without_rows(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"found{suffix}", [])
    assert rows(tmp_path / f"found{suffix}") == []


@pytest.mark.parametrize(
    ("name", "message"), [("a.cvs", "did you mean '.csv'"), ("a", "end it in one of"), ("", "is a folder")]
)
def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(UserError, match=message):
        outputs.require(tmp_path / (name or "dir.csv"))


def test_what_keeps_one_from_writing_is_a_message_without_the_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written") as raised,
        outputs.opened(tmp_path / "file" / "found.csv", CLASSES, False),
    ):
        pytest.fail("opened")
    assert "dvc" not in str(raised.value)
