"""The user's images: which files there are, their classes or labels, and a split of the user's own."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transferline.artifacts import SAMPLE, SPLITS, SplitName
from transferline.data import hashable
from transferline.data import labels as labels_file
from transferline.data.hashable import printable
from transferline.data.labels import SPLIT_NAMES
from transferline.errors import UserError, nearest
from transferline.labelsets import names_of

DEFAULT_LABELS = "labels.csv"
_MISSING_SHOWN = 3


class SourceFile(NamedTuple):
    """A file that has a label, whatever is in it. `path` is relative to the root, with forward slashes."""

    path: str
    label: str  # its class folder; in multi-label data, the names joined as in the manifest
    split: SplitName | None  # None where the user brings no split


@dataclass(frozen=True)
class Layout:
    """What `scan` found.

    Attributes:
        root: the folder that was scanned.
        files: every file below a class folder, or in the CSV of labels, sorted by path.
        strays: paths of the other files, sorted.
        classes: number of files per class or label, sorted by name.
        splits: the splits that the user names, in the order train, val, test; empty without.
        total_bytes: size of `files` on disk.
        labels: the CSV's path relative to the root, in multi-label data.
    """

    root: Path
    files: list[SourceFile]
    strays: list[str]
    classes: dict[str, int]
    splits: tuple[SplitName, ...]
    total_bytes: int
    labels: str | None = None

    @property
    def multilabel(self) -> bool:
        return self.labels is not None

    @property
    def unlisted(self) -> str:
        """Why `strays` are left out."""
        return f"not in {self.labels}" if self.labels else "not in a class folder"


def scan(root: Path, labels: str | None = None) -> Layout:
    """List a folder of class folders, or of train/, (val/,) test/ with class folders in them, without decoding.

    With `labels`, a CSV in that folder (see data/labels.py), the images are those that it names.
    Hidden files and folders are skipped, folders inside a class folder belong to that class,
    links are followed.

    Raises:
        UserError: the folder is missing or holds no class folders, no files, one class only, or
            half a split, or files that DVC cannot hash; or the CSV is missing, mistaken, or names
            files that do not exist.
    """
    require_folder(root)
    hashable.require(root)
    if labels is not None:
        return _labelled(root, labels)
    parts = _split_folders(root)
    classes: dict[str, list[Path]] = {}
    files: list[SourceFile] = []
    total_bytes = 0
    places: Sequence[tuple[Path, SplitName | None]] = parts or [(root, None)]
    for part, split in places:
        for folder in _folders(part):
            label = _class_name(folder)
            found = list(_walk(folder))
            classes.setdefault(label, []).extend(found)
            files += [SourceFile(file.relative_to(root).as_posix(), label, split) for file in found]
            total_bytes += sum(map(_size, found))
    counts = {label: len(classes[label]) for label in sorted(classes)}
    _check_classes(root, counts)
    names = {split for _, split in parts}
    return Layout(
        root=root,
        files=sorted(files),
        strays=_strays(root, [part for part, _ in parts]),
        classes=counts,
        splits=tuple(split for split in SPLITS if split in names),
        total_bytes=total_bytes,
    )


def _labelled(root: Path, labels: str) -> Layout:
    """The layout that a CSV of labels describes."""
    file = _labels_file(root, labels)
    rows = labels_file.read(file)
    _require_images(root, file, rows)
    named = {row.path for row in rows}
    everything = (entry.relative_to(root).as_posix() for entry in _walk(root) if entry != file)
    counts = Counter(name for row in rows for name in names_of(row.label, multilabel=True))
    return Layout(
        root=root,
        files=sorted(SourceFile(row.path, row.label, row.split) for row in rows),
        strays=sorted(path for path in everything if path not in named),
        classes=dict(sorted(counts.items())),
        splits=_listed_splits(file, rows),
        total_bytes=sum(_size(root / row.path) for row in rows),
        labels=file.relative_to(root).as_posix(),
    )


def _labels_file(root: Path, labels: str) -> Path:
    """The CSV, which lies inside `root`: DVC watches that folder, and would not see it change elsewhere."""
    file = root / labels if (root / labels).is_file() else Path(labels)
    if not file.is_file():
        beside = [entry.name for entry in root.glob("*.csv")]
        fix = nearest(labels, beside) if beside else f"put it into '{root}'"
        raise UserError(f"data.labels: '{labels}' does not exist in '{root}'", fix)
    inside = os.path.relpath(file.absolute(), root.absolute())  # links are not followed: DVC's cache may be behind one
    if inside.startswith(os.pardir):
        raise UserError(f"data.labels: '{labels}' is not inside data.root, '{root}'", "move it there: DVC watches that")
    return root / inside


def _require_images(root: Path, file: Path, rows: Sequence[labels_file.Labelled]) -> None:
    missing = [row for row in rows if not (root / row.path).is_file()]
    if not missing:
        return
    first = ", ".join(f"'{row.path}' (line {row.line})" for row in missing[:_MISSING_SHOWN])
    more = f" and {len(missing) - _MISSING_SHOWN} more" if len(missing) > _MISSING_SHOWN else ""
    raise UserError(
        f"{file} names {len(missing)} of {len(rows)} images that do not exist: {first}{more}",
        f"the first column holds paths relative to data.root, '{root}'",
    )


def _listed_splits(file: Path, rows: Sequence[labels_file.Labelled]) -> tuple[SplitName, ...]:
    """The splits that the column `split` names; empty without such a column."""
    found = {row.split for row in rows if row.split}
    if found and (lacking := {"train", "test"} - found):
        raise UserError(
            f"{file}: the column 'split' names no image of {' and '.join(sorted(lacking))}",
            "name train and test (val is taken out of train where it is missing), or take the column away",
        )
    return tuple(name for name in SPLITS if name in found)


def require_folder(root: Path) -> None:
    """Raises UserError, naming the nearest folder that exists, where `root` is no folder, or may not be read."""
    try:
        if root.is_dir():
            return
    except PermissionError:
        raise UserError(
            f"data.root: '{root}' may not be read", "give yourself the right, or name another folder"
        ) from None
    if root.exists():
        raise UserError(f"data.root: '{root}' is a file", "name the folder that holds a folder per class")
    if root.resolve() == SAMPLE.resolve():
        raise UserError(f"data.root: '{root}' does not exist yet", "'dvc repro fetch' lays the sample out")
    missing = root
    while not missing.parent.exists():
        missing = missing.parent
    beside = [printable(folder.name) for folder in _folders(missing.parent)] if missing.parent.is_dir() else []
    where = f"in '{missing.parent}' "
    fix = f"{where}{nearest(missing.name, beside)}" if beside else f"there are no folders {where}"
    raise UserError(f"data.root: '{root}' does not exist", fix.strip())


def require_enough(counts: Mapping[str, int], minimum: int, hint: str = "", labels: str | None = None) -> None:
    """Raises UserError naming the smallest class where it has fewer than `minimum` images.

    Args:
        labels: the CSV that the counts come from, in multi-label data.
    """
    label = min(counts, key=lambda name: (counts[name], name))
    if counts[label] < minimum:
        away = f"take the label out of {labels}" if labels else "take the folder away"
        raise UserError(
            f"class '{label}' has {counts[label]} usable images; {minimum} are needed",
            f"add {minimum - counts[label]} images to it, or {away}{hint}",
        )


def _split_folders(root: Path) -> list[tuple[Path, SplitName]]:
    """The first-level folders that are a split; empty where they are classes."""
    folders = {folder.name: folder for folder in _folders(root)}
    parts = [(folder, SPLIT_NAMES[name]) for name, folder in folders.items() if name in SPLIT_NAMES]
    found = [split for _, split in parts]
    if "train" not in found or (len(folders) > 1 and len(found) == 1):
        return []  # a class may well be called 'train'
    if others := sorted(set(folders) - set(SPLIT_NAMES)):
        raise UserError(
            f"data.root: '{root}' holds train and, beside it, '{printable(others[0])}'",
            "a folder with a split of its own holds train, val and test alone",
        )
    if len(set(found)) < len(found):
        raise UserError(f"data.root: '{root}' holds the validation split twice", "keep one of: val, valid, validation")
    if "test" not in found:
        raise UserError(
            f"data.root: '{root}' holds train but no test",
            "add test; or rename val to test, and val is taken out of train; or move the class folders up",
        )
    return parts


def _check_classes(root: Path, counts: Mapping[str, int]) -> None:
    if len(counts) < 2 and (beside := sorted(entry.name for entry in root.glob("*.csv"))):
        name = DEFAULT_LABELS if DEFAULT_LABELS in beside else beside[0]
        raise UserError(
            f"data.root: '{root}' holds a file of labels, {name}, and no folder per class",
            f"set data.labels: {name}",
        )
    if not counts:
        raise UserError(
            f"data.root: '{root}' holds no class folders",
            f"put the images of each class into a folder of its own: {root}/<class>/<image>",
        )
    if not any(counts.values()):
        raise UserError(f"data.root: the class folders of '{root}' hold no files", "put images into them")
    if len(counts) == 1:
        raise UserError(
            f"data.root: '{root}' holds one class only, '{next(iter(counts))}'",
            "a classifier needs two or more class folders",
        )


def _class_name(folder: Path) -> str:
    if printable(folder.name) != folder.name:
        raise UserError(f"the name of the class folder '{printable(folder.name)}' is not UTF-8", "rename it")
    return folder.name


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not _hidden(entry.name))


def _strays(root: Path, parts: list[Path]) -> list[str]:
    stray = (entry for folder in [root, *parts] for entry in folder.iterdir() if not entry.is_dir())
    return sorted(entry.relative_to(root).as_posix() for entry in stray if not _hidden(entry.name))


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        status = Path(current).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield from (Path(current, name) for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a link to nothing, behind a linked folder: prepare reports it
        return 0
