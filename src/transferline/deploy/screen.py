"""What `transferline predict` shows while it works: answers on stdout, a bar on stderr."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from transferline.data.images import ImageError
from transferline.deploy import display, inputs
from transferline.deploy.inputs import Input
from transferline.deploy.streaming import Outcome, Sink

_TABLE = 1000  # images that one table shows, and memory holds


class Bar:
    """Images done, of all that there are, once they are counted beside the work; nothing where `quiet`."""

    def __init__(self, given: Sequence[str], console: Console, *, quiet: bool) -> None:
        self._given = given
        columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
        # rich would send what is printed on stdout to this console, even where stdout is a file.
        progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._progress = None if quiet else progress

    @contextmanager
    def shown(self) -> Iterator[None]:
        if self._progress is None:
            yield
            return
        with self._progress:
            self._task = self._progress.add_task("", total=None)
            threading.Thread(target=self._count, daemon=True).start()
            yield

    def advance(self) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def end(self) -> None:
        """Take the bar away, for good."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _count(self) -> None:
        total, progress = inputs.count(self._given), self._progress
        if progress is not None:
            progress.update(self._task, total=total)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} images/s")


def lines(top: int | None) -> Sink:
    """A JSON object a line for each image that has an answer."""

    def write(given: Input, outcome: Outcome) -> None:
        if not isinstance(outcome, ImageError):
            print(json.dumps({"image": given.name, **outcome.as_json(top)}), flush=True)

    return write


@contextmanager
def tables(top: int | None, *, multilabel: bool, before: Callable[[], None]) -> Iterator[Sink]:
    """A table of all images that have an answer, or one of each thousand as they come; `before` is called first."""
    heading = ("image", "label" if multilabel else "class", ">probability")
    held: list[list[tuple[str, str, str]]] = []  # rows by image

    def flush() -> None:
        rows = [row for rows in held for row in rows]
        held.clear()
        if rows:
            before()
            display.print_table(heading, rows)

    def write(given: Input, outcome: Outcome) -> None:
        if not isinstance(outcome, ImageError):
            held.append([(given.name, name, probability) for name, probability in outcome.shown(top)])
        if len(held) == _TABLE:
            flush()

    try:
        yield write
    finally:  # be it stopped: what has an answer is shown
        flush()
