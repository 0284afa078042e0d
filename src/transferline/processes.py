"""Processes by a name that is not used twice: whether one still lives, and which `dvc` stands above this one."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

_PROC = Path("/proc")
_TAKE_A_VALUE = ("-W", "-X", "--check-hash-based-pycs")  # of the interpreter's options


def identity(pid: int) -> str | None:
    """A name for a living process that is not used twice; None where the process has ended.

    Pids are used again, in containers soon, so Linux's start time in ticks since boot goes with it.
    """
    if _on_linux():
        fields = _fields(pid)
        return None if fields is None or fields[0] in "ZX" else f"{pid}:{fields[19]}"
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


def dvc_above() -> str | None:
    """The identity of the nearest `dvc` among this process's ancestors, a shell between or not; None without one.

    Off Linux nobody says who an ancestor is: there the parent is taken for it, where DVC says that it runs a stage.
    """
    if not _on_linux():
        return identity(os.getppid()) if os.name == "posix" and os.environ.get("DVC_STAGE") else None
    pid = os.getppid()
    while pid > 1:
        name, fields = identity(pid), _fields(pid)
        if name is None or fields is None:
            return None
        if is_dvc(_command(pid)):
            return name
        pid = int(fields[1])
    return None


def is_dvc(command: Sequence[str]) -> bool:
    """Whether a command line is DVC's: `dvc ...`, `python .../bin/dvc ...` or `python -m dvc ...`."""
    if not command or PurePath(command[0]).stem == "dvc":
        return bool(command)
    if not PurePath(command[0]).name.lower().startswith(("python", "pypy")):
        return False
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "").partition(".")[0] == "dvc"
        if word == "-c":
            return False
        if word in _TAKE_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return PurePath(word).stem == "dvc"
    return False


def _on_linux() -> bool:
    return (_PROC / "self" / "stat").exists()


def _fields(pid: int) -> list[str] | None:
    """What /proc says of a process from its state on; None where there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()  # a name may hold blanks
    except OSError:
        return None


def _command(pid: int) -> list[str]:
    try:
        return os.fsdecode((_PROC / str(pid) / "cmdline").read_bytes()).rstrip("\0").split("\0")
    except OSError:
        return []
