"""Folders that are replaced as a whole, so that a stage killed half-way leaves none behind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferline.artifacts import atomic


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; put it in its place when the block succeeds."""
    with atomic(folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
