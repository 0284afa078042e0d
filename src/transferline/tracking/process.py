"""Where and from what a run was made: the host, and the commit of the code."""

import platform
import subprocess


def host() -> str:
    return platform.node()


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
