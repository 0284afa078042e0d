"""Folders that are replaced as a whole, so that a stage killed half-way leaves none behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferline.artifacts import atomic


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; put it in its place when the block succeeds."""
    with atomic(folder) as partial:
        partial.mkdir()
        yield partial
