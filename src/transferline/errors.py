"""Errors a user sees: what is wrong, where, and what to do about it."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Something the user can mend; shown as one message, without a traceback.

    Args:
        what: what is wrong, with the file or key it is wrong in.
        fix: what to do, with the nearest right value where there is one.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(f"{what}\n  {fix}" if fix else what)


def nearest(word: str, choices: Iterable[str]) -> str:
    """A sentence naming the choice closest to `word`, or all of them where none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}"


def _unwind(signum: int, _: object) -> None:
    raise SystemExit(128 + signum)


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a user's mistake becomes one message on stderr and exit code 1.

    SIGTERM and Ctrl-C unwind the stack, so that runs are closed, and end the process with 143 and
    130: DVC must never take an unfinished stage for a finished one, and Lightning would exit with 0.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _unwind)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
