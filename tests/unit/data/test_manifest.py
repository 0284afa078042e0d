import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferline import cores
from transferline.artifacts import read_manifest, write_manifest
from transferline.data import manifest, reports, sources
from transferline.errors import UserError
from transferline.sections import Prepare, Split


def noise(seed: int, side: int = 40) -> np.ndarray:
    """An image of its own look: coarse random patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST))


def add(root: Path, path: str, pixels: np.ndarray) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / path, format="PNG")


def make(root: Path, counts: dict[str, int]) -> Path:
    seeds = iter(range(10_000))
    for folder, count in counts.items():
        for index in range(count):
            add(root, f"{folder}/{index:03}.png", noise(next(seeds)))
    return root


def build(root: Path, **prepare: int) -> manifest.Prepared:
    return manifest.build(sources.scan(root), Split(), Prepare(**prepare), seed=1)


def test_every_image_stands_in_the_manifest_sorted_and_it_reads_back(tmp_path):
    prepared = build(make(tmp_path / "in", {"a": 10, "b": 20}))
    assert [row.path for row in prepared.rows] == sorted(row.path for row in prepared.rows)
    assert prepared.summary() | {"train": 21, "images": 30, "classes": 2, "quarantined": 0} == prepared.summary()
    write_manifest(prepared.rows, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == prepared.rows
    assert all(len(row.phash) == 16 and len(row.sha256) == 64 for row in prepared.rows)
    assert (prepared.rows[0].width, prepared.rows[0].height) == (40, 40)


def test_two_runs_agree_however_many_processes_decode(tmp_path, monkeypatch):
    root = make(tmp_path, {"a": 20, "b": 20})
    first = build(root)
    monkeypatch.setattr(cores, "usable", lambda: 1)
    assert build(root) == first


def test_what_cannot_be_used_is_quarantined_with_its_reason(tmp_path):
    root = make(tmp_path, {"a": 4, "b": 4})
    (root / "a" / "notes.txt").write_text("hello")
    (root / "a" / "empty.png").touch()
    add(root, "b/tiny.png", noise(900, side=16))
    (root / "stray.png").write_bytes(b"x")
    assert build(root).quarantine == [
        ("a/empty.png", "empty file"),
        ("a/notes.txt", "not an image"),
        ("b/tiny.png", "shorter side 16 is under 32 pixels"),
        ("stray.png", "not in a class folder"),
    ]


def test_near_duplicates_share_a_split_and_are_listed(tmp_path):
    root = make(tmp_path, {"a": 12, "b": 12})
    for copy in range(4):
        brighter = np.minimum(noise(0).astype(int) + 2 * copy + 2, 255).astype(np.uint8)
        add(root, f"a/copy{copy}.png", brighter)
    add(root, "b/same.png", noise(12))
    prepared = build(root)
    copies = [row for row in prepared.rows if row.path == "a/000.png" or "copy" in row.path]
    assert len({row.group for row in copies}) == len({row.split for row in copies}) == 1
    summary = prepared.summary()
    assert (summary["duplicate_groups"], summary["largest_group"]) == (2, 5)
    assert (summary["exact_duplicates"], summary["near_duplicates"]) == (2, 5)
    assert summary["groups_across_splits"] == 0


def test_one_image_under_two_labels_is_quarantined_twice(tmp_path):
    root = make(tmp_path, {"a": 4, "b": 4})
    Image.fromarray(noise(0)).save(root / "b" / "again.bmp")
    assert build(root).quarantine == [
        ("a/000.png", "conflicting labels: also in b"),
        ("b/again.bmp", "conflicting labels: also in a"),
    ]


def test_the_users_split_is_kept_and_duplicates_across_it_are_counted(tmp_path):
    root = make(tmp_path, {f"{part}/{label}": 4 for part in ("train", "val", "test") for label in "ab"})
    add(root, "test/a/leak.png", noise(0))
    prepared = build(root)
    assert all(row.path.startswith(row.split) for row in prepared.rows)
    assert prepared.summary()["groups_across_splits"] == 1
    leakage = reports.leakage(prepared)
    assert leakage["pairs"] == [{"test": "test/a/leak.png", "train": "train/a/000.png", "distance": 0}]
    assert (leakage["test_images"], leakage["test_images_with_twin_in_train"]) == (9, 1)
    assert (leakage["val_images"], leakage["val_images_with_twin_in_train"], leakage["val_pairs"]) == (8, 0, [])
    assert "too good" in leakage["advice"]


def test_a_split_that_does_not_leak_says_so(tmp_path):
    own = make(tmp_path / "own", {f"{part}/{label}": 4 for part in ("train", "val", "test") for label in "ab"})
    made = make(tmp_path / "made", {"a": 8, "b": 8})
    add(made, "a/twin.png", noise(0))
    for root, advice in ((own, "no image of your split's test or val"), (made, "the split was made here")):
        leakage = reports.leakage(build(root))
        assert leakage["test_images_with_twin_in_train"] == leakage["val_images_with_twin_in_train"] == 0
        assert leakage["pairs"] == []
        assert advice in leakage["advice"]


def test_val_is_taken_out_of_train_where_the_user_has_none(tmp_path):
    root = make(tmp_path, {"train/a": 17, "train/b": 17, "test/a": 3, "test/b": 3})
    prepared = build(root)
    assert {row.split for row in prepared.rows if row.path.startswith("test")} == {"test"}
    kept = [row.split for row in prepared.rows if row.path.startswith("train")]
    assert (kept.count("train"), kept.count("val")) == (28, 6)


def test_a_class_missing_from_the_users_test_is_named(tmp_path):
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2, "test/a": 2})
    with pytest.raises(UserError, match="class 'b' has no image in test"):
        build(root)


def test_too_few_usable_images_are_explained_by_the_commonest_reason(tmp_path):
    root = make(tmp_path, {"a": 4, "b": 2})
    for index in range(3):
        add(root, f"b/small{index}.png", noise(50 + index, side=16))
    with pytest.raises(UserError, match=r"class 'b' has 2 usable images; 3 are needed.*\n.*under 32 pixels"):
        build(root)


def test_no_usable_image_at_all_is_said(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of the 2 files"):
        build(tmp_path)


def labelled(root: Path, sets: list[str], extra: str = "") -> Path:
    """An image a set of labels, and the CSV that says so."""
    for index in range(len(sets)):
        add(root, f"{index:03}.png", noise(index))
    rows = "".join(f"{index:03}.png,{label}\n" for index, label in enumerate(sets))
    (root / "labels.csv").write_text(f"path,labels\n{rows}{extra}")
    return root


def build_labelled(root: Path, **prepare: int) -> manifest.Prepared:
    return manifest.build(sources.scan(root, "labels.csv"), Split(), Prepare(**prepare), seed=1)


def test_label_sets_stand_in_the_manifest_and_every_label_is_in_every_split(tmp_path):
    root = labelled(tmp_path, ["b;a", "a", "", "b"] * 8 + ["rare;a"] * 3)
    prepared = build_labelled(root)
    assert [row.label for row in prepared.rows[:4]] == ["a;b", "a", "", "b"]
    assert prepared.multilabel
    places = {(name, row.split) for row in prepared.rows for name in prepared.names(row)}
    assert len(places) == 3 * 3
    summary = prepared.summary()
    assert (summary["classes"], summary["unlabelled"], summary["images"]) == (3, 8, 35)
    assert "unlabelled" not in build(make(tmp_path / "folders", {"a": 5, "b": 5})).summary()


def test_one_image_under_two_label_sets_is_quarantined_twice(tmp_path):
    root = labelled(tmp_path, ["a;b", "a", "b"] * 4, extra="same.bmp,a\nblank.bmp,\n")
    Image.fromarray(noise(0)).save(root / "same.bmp")
    Image.fromarray(noise(0)).save(root / "blank.bmp")
    add(root, "equal.bmp", noise(1))
    (root / "labels.csv").write_text((root / "labels.csv").read_text() + "equal.bmp,a\n")
    assert build_labelled(root).quarantine == [
        ("000.png", "conflicting labels: also in a, no label"),
        ("blank.bmp", "conflicting labels: also in a, a;b"),
        ("same.bmp", "conflicting labels: also in a;b, no label"),
    ]


def test_usable_images_are_counted_per_label(tmp_path):
    root = labelled(tmp_path, ["a;b", "a;b", "a", "a"])
    with pytest.raises(UserError, match=r"class 'b' has 2 usable images; 3 are needed\n.*out of labels\.csv"):
        build_labelled(root)


def test_a_split_in_the_csv_is_kept(tmp_path):
    parts = ["train", "val", "test"] * 4
    root = labelled(tmp_path, ["a;b"] * 12)
    lines = (root / "labels.csv").read_text().splitlines()
    named = [f"{line},{part}" for line, part in zip(lines, ["split", *parts], strict=True)]
    (root / "labels.csv").write_text("\n".join(named))
    assert [row.split for row in build_labelled(root).rows] == parts


def test_reports_of_label_sets_count_images_once_a_label(tmp_path):
    root = labelled(tmp_path / "in", ["a;b", "a", "", "b"] * 6)
    prepared = build_labelled(root)
    reports.write_prepare(prepared, root, tmp_path / "out")
    counts = list(csv.DictReader((tmp_path / "out" / "counts.csv").read_text().splitlines()))
    assert {row["class"]: int(row["train"]) + int(row["val"]) + int(row["test"]) for row in counts} == {
        "a": 12,
        "b": 12,
    }
    assert (tmp_path / "out" / "samples.png").stat().st_size > 0


def test_the_reports_are_written_the_same_twice(tmp_path):
    root = make(tmp_path / "in", {"a": 6, "$b$": 6})
    add(root, "a/copy.png", noise(0))
    prepared = build(root)
    for folder in ("one", "two"):
        reports.write_prepare(prepared, root, tmp_path / folder)
    names = ["classes.png", "counts.csv", "duplicates.csv", "leakage.json", "samples.png", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    counts = list(csv.DictReader((tmp_path / "one" / "counts.csv").read_text().splitlines()))
    assert [(row["class"], int(row["train"]) + int(row["val"]) + int(row["test"])) for row in counts] == [
        ("$b$", 6),
        ("a", 7),
    ]
    listed = list(csv.DictReader((tmp_path / "one" / "duplicates.csv").read_text().splitlines()))
    assert [(row["path"], row["kind"]) for row in listed] == [("a/000.png", "exact"), ("a/copy.png", "exact")]
    assert json.loads((tmp_path / "one" / "summary.json").read_text()) == prepared.summary()


def test_prepare_needs_no_torch():
    code = "import sys\nfrom transferline.data import manifest, reports\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
