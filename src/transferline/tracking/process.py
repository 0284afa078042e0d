"""Which process a run belongs to, and whether it still lives; and the code it runs."""

import os
import platform
import subprocess
from pathlib import Path

_PROC = Path("/proc")


def host() -> str:
    return platform.node()


def identity(pid: int) -> str | None:
    """A name for a living process that is not used twice; None where the process has ended.

    Pids are used again, in containers soon, so Linux's start time in ticks since boot goes with it.
    """
    if (_PROC / "self" / "stat").exists():
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()  # a name may hold blanks
        except OSError:
            return None
        state, started = fields[0], fields[19]
        return None if state in "ZX" else f"{pid}:{started}"
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # it lives, under another user
    return str(pid)  # elsewhere signal 0 would end the process: taken for alive


def lives(name: str) -> bool:
    """Whether the process that `identity` once gave that name still runs."""
    return identity(int(name.partition(":")[0])) == name


def git_commit() -> str:
    """The commit checked out here, with '-dirty' where files differ from it; 'unknown' without git.

    A dvc.lock does not count: DVC itself writes it between the stages of one run.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    changes = _git("status", "--porcelain", "--", ".", ":(exclude,glob)**/dvc.lock")
    return f"{commit}-dirty" if changes else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
