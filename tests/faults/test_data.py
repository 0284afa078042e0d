"""docs/data.md says what happens to broken and hostile data: every row of its table is made here, and held to it."""

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contract.closure import ROOT
from tests.faults import contents, folders
from tests.faults.corpus import MAKERS, Expected, picture, save
from tests.faults.prepared import prepare
from transferline.artifacts import read_manifest, read_table, write_csv, write_manifest
from transferline.data import images, reports
from transferline.data.manifest import Prepared


class Row(NamedTuple):
    """Of the table."""

    id: str
    case: str
    outcome: str
    note: str


def table() -> list[Row]:
    lines = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines if line.startswith("| ")]
    rows = [Row(*row) for row in cells if len(row) == len(Row._fields)]
    assert rows[0].id == "id"
    return rows[2:]


ROWS = table()
AS_NOBODY = {"unreadable-file", "unreadable-folder"}
LARGE = {"thousand-classes", "many-tiny-files"}


def test_the_table_and_the_corpus_have_the_same_cases():
    assert {make.__module__ for make in MAKERS.values()} == {contents.__name__, folders.__name__}
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)) > 50
    assert set(ids) == set(MAKERS)
    assert all(row.case and row.outcome.split(":")[0] in ("used", "quarantined", "refused", "ignored") for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_what_the_table_says_happens(row: Row, tmp_path: Path) -> None:
    root = tmp_path / "in"
    for index in range(12):
        save(root / f"{'ab'[index % 2]}/{index}.png", picture(index))
    expected = MAKERS[row.id](root)
    found = prepare(root, 5 if row.id == "hanging-file" else 120, unprivileged=row.id in AS_NOBODY)
    outcome, _, words = row.outcome.partition(": ")
    if outcome == "refused":
        assert isinstance(found, str), "it was not refused"
        assert words in found
        assert "\n" in found, "it does not say what to do"
        return
    assert isinstance(found, Prepared), found
    check_files(outcome, words, found, expected, root)
    if outcome == "used" and MAKERS[row.id].__module__ == folders.__name__:
        check_line(found, root, tmp_path / "out", arrays=row.id not in LARGE)


def check_files(outcome: str, words: str, found: Prepared, expected: Expected, root: Path) -> None:
    rows, quarantine = {row.path for row in found.rows}, dict(found.quarantine)
    assert expected
    for path, pixels in expected.items():
        assert (path in rows, path in quarantine) == (outcome == "used", outcome == "quarantined"), quarantine
        if outcome == "quarantined":
            assert re.fullmatch(re.escape(words).replace("…", ".*"), quarantine[path])
        if outcome == "used" and pixels is not None:
            assert images.decode(root / path).tolist() == pixels.tolist(), path
    others = {f"{'ab'[index % 2]}/{index}.png" for index in range(12)} & {row.path for row in found.rows}
    assert len(others) in (0, 6, 12), "others must not suffer"


def check_line(found: Prepared, root: Path, out: Path, *, arrays: bool) -> None:
    """The paths survive the reports, the manifest and augment."""
    reports.write_prepare(found, root, out)
    with (out / "duplicates.csv").open(encoding="utf-8", newline="") as stream:
        listed = {line["path"] for line in csv.DictReader(stream)}
    assert listed <= {row.path for row in found.rows}
    write_manifest(found.rows, out / "manifest.parquet")
    assert read_manifest(out / "manifest.parquet") == found.rows
    if arrays:
        from transferline.data.arrays import Recipe, write  # torch takes seconds to import

        write(found.rows, root, Recipe(32, "squash", 0, (), 0), 0, out / "arrays")
        stored = [read_table(out / "arrays" / part / "index.parquet")["path"] for part in ("train", "val", "test")]
        assert sorted(path for paths in stored for path in paths) == [row.path for row in found.rows]


def test_a_twin_in_test_is_reported_with_what_to_do(tmp_path):
    root = tmp_path / "in"
    for index in range(12):
        save(root / f"{'ab'[index % 2]}/{index}.png", picture(index))
    folders.twins_across_a_split(root)
    found = prepare(root, 120)
    assert isinstance(found, Prepared)
    reports.write_prepare(found, root, tmp_path)
    told = json.loads((tmp_path / "leakage.json").read_text())
    assert (told["test_images"], told["test_images_with_twin_in_train"]) == (12, 12)
    assert (told["val_images"], told["val_images_with_twin_in_train"]) == (12, 12)
    assert told["pairs"][0] == {"test": "test/a/0.png", "train": "train/a/0.png", "distance": 0}
    assert "prepare.exclude" in told["advice"]


@pytest.mark.parametrize("name", ["new\nline", 'quo"te', "c,d", "car\rriage", "both\r\n", "🧵", "\u2028", " x "])
def test_an_odd_name_survives_a_csv(tmp_path, name):
    write_csv(tmp_path / "q.csv", ["path", "reason"], [(name, "why"), ("b", "c")])
    with (tmp_path / "q.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["path", "reason"], [name, "why"], ["b", "c"]]
