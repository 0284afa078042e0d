"""What prepare tells about the data: tables, counts and pictures under reports/prepare."""

from collections import Counter
from pathlib import Path
from typing import Any

from transferline.artifacts import SPLITS, write_csv, write_json
from transferline.data import pictures
from transferline.data.manifest import Prepared


def write_prepare(prepared: Prepared, root: Path, folder: Path) -> None:
    """Write counts.csv, duplicates.csv, leakage.json, summary.json, samples.png and classes.png into `folder`."""
    counts = Counter((name, row.split) for row in prepared.rows for name in prepared.names(row))
    classes = sorted({name for name, _ in counts})
    table = {label: [counts[label, split] for split in SPLITS] for label in classes}
    write_csv(folder / "counts.csv", ["class", *SPLITS], ([label, *row] for label, row in table.items()))
    write_csv(folder / "duplicates.csv", ["group", "path", "label", "split", "kind"], _duplicates(prepared))
    write_json(folder / "leakage.json", leakage(prepared))
    write_json(folder / "summary.json", prepared.summary())
    images = Counter(row.split for row in prepared.rows)
    pictures.classes(table, [images[split] for split in SPLITS], folder / "classes.png")
    train = [(row, prepared.names(row)) for row in prepared.rows if row.split == "train"]
    pictures.samples(train, root, folder / "samples.png")


def leakage(prepared: Prepared) -> dict[str, Any]:
    """How many images of test and val have a near duplicate in train, which ones, and what to do about it."""
    report: dict[str, Any] = {}
    for name in ("test", "val"):
        twins = prepared.twins.get(name, [])
        report[f"{name}_images"] = sum(row.split == name for row in prepared.rows)
        report[f"{name}_images_with_twin_in_train"] = len(twins)
        report["pairs" if name == "test" else "val_pairs"] = [
            {name: twin.held, "train": twin.train, "distance": twin.distance} for twin in twins
        ]
    return report | {"advice": _advice(prepared, len(prepared.twins.get("test", [])))}


def _advice(prepared: Prepared, leaking: int) -> str:
    if not prepared.twins:
        return "Nothing to do: the split was made here, and near duplicates are never in two splits of it."
    if not leaking and not prepared.twins["val"]:
        return "Nothing to do: no image of your split's test or val has a near duplicate in its train."
    where = "test or val" if leaking else "val"
    return (
        f"Images that train holds, too, are in {where} of your split: what is measured there is too good. Take one of "
        "each pair away, or list it in the file of prepare.exclude; or put all images into one folder per class, "
        "without train and test, and prepare makes a split that keeps near duplicates together."
    )


def _duplicates(prepared: Prepared) -> list[tuple[object, ...]]:
    """Images that share their group, a row each, group by group."""
    members = Counter(row.group for row in prepared.rows)
    alike: list[tuple[object, ...]] = [
        (row.group, row.path, row.label, row.split, "exact" if exact else "near")
        for row, exact in zip(prepared.rows, prepared.exact, strict=True)
        if members[row.group] > 1
    ]
    return sorted(alike, key=lambda row: row[:2])
