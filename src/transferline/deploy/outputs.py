"""The file that `transferline predict --output` writes: CSV, JSON lines or Parquet, a row an image, as answers come.

Columns: `image`; `class` and `probability`, or `labels`, joined by semicolons, where an image may have several;
`p:NAME`, the probability of each class; `error`, why an image has no answer, in whose row all else is empty.
A JSON line is what `--json` prints, or `image` and `error`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transferline import labelsets
from transferline.data.images import ImageError
from transferline.deploy.inputs import Input
from transferline.deploy.streaming import Outcome, Sink
from transferline.errors import UserError, nearest
from transferline.system import GOES_ON

_TEXTS = {"image", "class", "labels", "error"}  # no class is called so: its column begins with p:
_ROWS = 5000  # of a Parquet row group: those that memory holds


@dataclass(frozen=True)
class _Layout:
    classes: Sequence[str]
    multilabel: bool

    @cached_property
    def columns(self) -> list[str]:
        from transferline.artifacts import PROBABILITY

        said = ["labels"] if self.multilabel else ["class", "probability"]
        return ["image", *said, *(PROBABILITY + name for name in self.classes), "error"]

    def row(self, given: Input, outcome: Outcome) -> list[Any]:
        if isinstance(outcome, ImageError):
            return [given.name, *[None] * (len(self.columns) - 2), str(outcome)]
        said = outcome.ranked[0] if outcome.labels is None else [labelsets.join(outcome.labels)]
        of_class = dict(outcome.ranked)
        return [given.name, *said, *(of_class[name] for name in self.classes), None]


def require(path: Path) -> None:
    """Raises UserError where no file can be written under the name, be it for its suffix."""
    if path.suffix not in _FORMATS:
        fix = nearest(path.suffix, _FORMATS) if path.suffix else f"end it in one of: {', '.join(_FORMATS)}"
        raise UserError(f"--output {path}: the suffix names no format to write", fix)
    if path.is_dir():
        raise UserError(f"--output {path} is a folder", f"name a file, as {path / 'predictions'}{path.suffix}")


@contextmanager
def opened(path: Path, classes: Sequence[str], multilabel: bool) -> Iterator[Sink]:
    """What adds an image to the file, which is there when the block succeeds; else what was there before still is.

    Raises:
        UserError: as `require`, or where the file cannot be written.
    """
    from transferline.artifacts import atomic

    require(path)
    layout = _Layout(classes, multilabel)
    try:
        with atomic(path) as partial, _FORMATS[path.suffix](partial, layout) as write:
            yield write
    except UserError as error:  # of the disk; no stage goes on here
        raise UserError(error.what, error.fix.removesuffix(GOES_ON).rstrip("; ")) from None


@contextmanager
def _jsonl(path: Path, _: _Layout) -> Iterator[Sink]:
    with path.open("w", encoding="utf-8") as stream:

        def write(given: Input, outcome: Outcome) -> None:
            said = {"error": str(outcome)} if isinstance(outcome, ImageError) else outcome.as_json()
            stream.write(json.dumps({"image": given.name, **said}) + "\n")

        yield write


@contextmanager
def _csv(path: Path, layout: _Layout) -> Iterator[Sink]:
    from transferline.artifacts import csv_line

    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(csv_line(layout.columns))

        def write(given: Input, outcome: Outcome) -> None:
            stream.write(csv_line(layout.row(given, outcome)))

        yield write


@contextmanager
def _parquet(path: Path, layout: _Layout) -> Iterator[Sink]:
    """Texts are strings, probabilities float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if name in _TEXTS else pa.float32()) for name in layout.columns])
    rows: list[list[Any]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True)
        arrays = [
            pa.Array.from_buffers(of.type, len(rows), [pa.py_buffer(part) for part in _buffers(column, of.name)])
            for column, of in zip(columns, schema, strict=True)
        ]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        rows.clear()

    def write(given: Input, outcome: Outcome) -> None:
        rows.append(layout.row(given, outcome))
        if len(rows) == _ROWS:
            flush()

    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        yield write
        if rows:
            flush()


def _buffers(column: Sequence[Any], name: str) -> list[Any]:
    """What Arrow holds of a column: a bit for each value that is there, offsets of texts, and the values.

    `pa.array` would do, but imports pandas, for its own sake.
    """
    there = np.packbits([value is not None for value in column], bitorder="little")
    if name not in _TEXTS:
        return [there, np.array([0 if value is None else value for value in column], dtype=np.float32)]
    texts = [(value or "").encode() for value in column]
    return [there, np.cumsum([0, *map(len, texts)], dtype=np.int32), b"".join(texts)]


_FORMATS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
