"""The labels of an image as one text: a class name or, in multi-label data, none to many names joined by semicolons."""

from collections.abc import Iterable

SEPARATOR = ";"  # no label may contain it


def join(names: Iterable[str]) -> str:
    """The names sorted and joined; empty for an image without any label."""
    return SEPARATOR.join(sorted(names))


def names_of(text: str, multilabel: bool) -> list[str]:
    """The class names in `text`: the whole of it, or the parts of a joined set."""
    if not multilabel:
        return [text]
    return text.split(SEPARATOR) if text else []
