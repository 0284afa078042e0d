"""Errors a user sees: what is wrong, where, and what to do about it."""

import difflib
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType

from transferline import system
from transferline.secrets import redacted


class UserError(ValueError):
    """Something the user can mend; shown as one message, without a traceback and without secrets.

    Args:
        what: what is wrong, with the file or key it is wrong in.
        fix: what to do, with the nearest right value where there is one.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = redacted(what), redacted(fix)  # other libraries' messages quote addresses in full
        super().__init__(f"{self.what}\n  {self.fix}" if fix else self.what)


def nearest(word: str, choices: Iterable[str]) -> str:
    """A sentence naming the choice closest to `word`, or all of them where none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}"


def as_user_error(error: BaseException) -> UserError | None:
    """What to show for an exception: a user's mistake as it is, what the machine refuses in words; None for a bug."""
    if isinstance(error, UserError):
        return error
    refused = system.untranslated(error)
    return UserError(*refused) if refused else None


def _unwind(signum: int, _: object) -> None:
    raise SystemExit(128 + signum)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a user's mistake, or a full disk, becomes one message on stderr and exit code 1.

    SIGTERM and Ctrl-C unwind the stack, so that runs are closed, and end the process with 143 and
    130: DVC must never take an unfinished stage for a finished one. Lightning's SIGTERMException would exit with 0,
    as would any exit without a code: such a one becomes 143, or 1. A bug's traceback is
    shown without secrets.
    """
    sys.excepthook = _show
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _unwind)
    try:
        main()
    except SystemExit as ending:
        if ending.code:
            raise
        sys.exit(143 if type(ending).__name__ == "SIGTERMException" else 1)  # unfinished, whatever a library says
    except Exception as error:
        message = as_user_error(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
