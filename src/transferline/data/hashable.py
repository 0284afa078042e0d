"""What DVC cannot hash: `dvc repro` hashes every file under data.root, and ends, or waits for ever, at these."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from transferline.errors import UserError

_SHOWN = 3


def printable(path: str) -> str:
    """`path` with the bytes that are not UTF-8 written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def require(root: Path) -> None:
    """Raises UserError naming the first files under `root`, hidden ones among them, that DVC cannot hash."""
    found = sorted(_troubles(root))
    if not found:
        return
    first = ", ".join(f"'{path}' ({why})" for path, why in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UserError(
        f"data.root: '{root}' holds what DVC cannot hash: {first}{more}",
        "take it out of that folder, or mend it: 'dvc repro' hashes every file there",
    )


def _troubles(root: Path) -> Iterator[tuple[str, str]]:
    """Printable paths relative to `root`, and what is wrong. Linked folders are left out, as DVC does."""
    failed: list[OSError] = []
    for current, _, names in os.walk(root, onerror=failed.append):
        for name in names:
            if why := _trouble(Path(current, name)):
                yield printable(os.path.relpath(Path(current, name), root)), why
    for error in failed:
        yield printable(os.path.relpath(error.filename, root)), str(error.strerror)


def _trouble(file: Path) -> str:
    if printable(str(file)) != str(file):
        return "its name is not UTF-8"
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing"
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISREG(mode):
        return "not a regular file"
    return "" if os.access(file, os.R_OK) else "it may not be read"
