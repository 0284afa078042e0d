"""What prepare tells about the data: tables, counts and pictures under reports/prepare."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from transferline.artifacts import SPLITS, write_json, write_text
from transferline.data import pictures
from transferline.data.manifest import Prepared


def write_prepare(prepared: Prepared, root: Path, folder: Path) -> None:
    """Write counts.csv, duplicates.csv, summary.json, samples.png and classes.png into `folder`."""
    counts = Counter((name, row.split) for row in prepared.rows for name in prepared.names(row))
    classes = sorted({name for name, _ in counts})
    table = {label: [counts[label, split] for split in SPLITS] for label in classes}
    write_csv(folder / "counts.csv", ["class", *SPLITS], ([label, *row] for label, row in table.items()))
    write_csv(folder / "duplicates.csv", ["group", "path", "label", "split", "kind"], _duplicates(prepared))
    write_json(folder / "summary.json", prepared.summary())
    images = Counter(row.split for row in prepared.rows)
    pictures.classes(table, [images[split] for split in SPLITS], folder / "classes.png")
    train = [(row, prepared.names(row)) for row in prepared.rows if row.split == "train"]
    pictures.samples(train, root, folder / "samples.png")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _duplicates(prepared: Prepared) -> list[tuple[object, ...]]:
    """Images that share their group, a row each, group by group."""
    members = Counter(row.group for row in prepared.rows)
    alike: list[tuple[object, ...]] = [
        (row.group, row.path, row.label, row.split, "exact" if exact else "near")
        for row, exact in zip(prepared.rows, prepared.exact, strict=True)
        if members[row.group] > 1
    ]
    return sorted(alike, key=lambda row: row[:2])
