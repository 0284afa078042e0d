"""Calls that the MLflow store did not take, kept on disk in their order: a file for each process.

`.cache/spool/<time>-<pid>.jsonl` has a call a line. Beside it lie `.sent`, up to which byte the calls have been sent;
`.lock`, held for as long as a process writes or sends the file, so that no other sends it, too; and a folder with
copies of the artifacts, since a later stage may change the files themselves. `ids.jsonl` is for all: which run a local
id stands for.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferline import artifacts
from transferline.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

FILES = {"local_path", "local_dir"}  # what is given under these names is a file or a folder
LOCAL = "local-"  # begins the id of a run that could not be made yet
_LOCAL_ID = re.compile(LOCAL + r"[0-9a-f]{32}")


class UnknownRunError(LookupError):
    """A local id whose run has not been made yet."""


def folder() -> Path:
    return artifacts.project_root() / ".cache" / "spool"


class Spool:
    """One file of calls, locked by this process."""

    def __init__(self, path: Path, lock: "BaseFileLock") -> None:
        self.path, self._lock = path, lock
        self._sent, self._copies = path.with_suffix(".sent"), path.with_suffix("")

    @classmethod
    def begin(cls, place: str) -> "Spool":
        """A new file for calls to the store of that name, which holds no password."""
        folder().mkdir(parents=True, exist_ok=True)
        path = folder() / f"{time.time_ns()}-{os.getpid()}.jsonl"
        lock = _locked(path)
        assert lock is not None, path
        spool = cls(path, lock)
        spool.append({"store": place})
        return spool

    @classmethod
    def adopt(cls, path: Path) -> "Spool | None":
        """A file whose process has ended; None where a process still holds it, or has just sent it."""
        lock = _locked(path)
        if lock is not None and not path.exists():
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
            return None
        return None if lock is None else cls(path, lock)

    def append(self, record: dict[str, Any]) -> None:
        """Add a call; it is on disk when this returns."""
        try:
            append_line(self.path, record)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error}", "make room, then 'dvc repro'") from None

    def copy(self, source: Path) -> str:
        """Keep a copy of a file or folder under its own name; its path relative to the spool's folder."""
        kept = self._copies / str(time.time_ns()) / source.name
        try:
            kept.parent.mkdir(parents=True)
            shutil.copytree(source, kept) if source.is_dir() else shutil.copyfile(source, kept)
            for file in [kept, *kept.rglob("*")]:
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"{kept} cannot be written: {error}", "make room, then 'dvc repro'") from None
        return kept.relative_to(self.path.parent).as_posix()

    def unsent(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Each call that waits, and the byte at which it ends; what a kill cut short at the end is no call."""
        with self.path.open("rb") as stream:
            stream.seek(_last_number(self._sent))
            while (line := stream.readline()).endswith(b"\n"):
                try:
                    record = json.loads(line)
                except ValueError:
                    fix = "remove that line to send the others, or the file to send none"
                    raise UserError(f"{self.path} is damaged before byte {stream.tell()}", fix) from None
                if "call" in record:
                    yield record, stream.tell()

    def mark(self, end: int) -> None:
        """The calls up to this byte are sent. Lost in a power cut, they are sent again, which changes nothing."""
        with self._sent.open("ab") as stream:
            stream.write(b"%d\n" % end)

    def refuse(self, record: dict[str, Any], reason: str) -> None:
        """Put aside, with its artifacts, a call that the store will never take."""
        append_line(folder() / "refused.jsonl", {**record, "reason": reason})
        for name in FILES & record["given"].keys():
            aside = folder() / "refused" / record["given"][name]
            aside.parent.mkdir(parents=True, exist_ok=True)
            (folder() / record["given"][name]).replace(aside)

    def discard(self) -> None:
        """Remove the file, all of whose calls are sent."""
        self.path.unlink()
        self._sent.unlink(missing_ok=True)
        shutil.rmtree(self._copies, ignore_errors=True)
        self.release()

    def release(self) -> None:
        self._lock.release()
        if not self.path.exists():
            Path(self._lock.lock_file).unlink(missing_ok=True)


def kept() -> list[Path]:
    """The files of all processes, the oldest first."""
    return sorted(folder().glob("*-*.jsonl"), key=lambda path: int(path.name.partition("-")[0]))


def store_of(path: Path) -> str | None:
    """The store that a file's calls are for; None where a kill left not even that, or all is sent."""
    try:
        with path.open("rb") as stream:
            line = stream.readline()
        return str(json.loads(line)["store"]) if line.endswith(b"\n") else None
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} is damaged in its first line", "delete it: its calls can be sent nowhere") from None


def count(path: Path) -> int:
    """How many calls of a file wait, whoever holds it."""
    try:
        with path.open("rb") as stream:
            start = _last_number(path.with_suffix(".sent"))
            stream.seek(start)
            lines = sum(line.endswith(b"\n") for line in stream)
        return lines if start else max(lines - 1, 0)  # the first line names the store
    except FileNotFoundError:  # sent meanwhile
        return 0


def learn(local: str, run_id: str) -> None:
    """Keep which run a local id stands for, for good: run records may name it."""
    append_line(folder() / "ids.jsonl", {local: run_id})


def real(text: str) -> str:
    """`text` with the ids of real runs in place of local ones.

    Raises:
        UnknownRunError: where such a run has not been made yet.
    """
    if LOCAL not in text:
        return text
    found = _LOCAL_ID.findall(text)
    if not found:
        return text
    path, known = folder() / "ids.jsonl", dict[str, str]()
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        known |= json.loads(line) if line.endswith(b"\n") else {}
    for local in found:
        if local not in known:
            raise UnknownRunError(local)
        text = text.replace(local, known[local])
    return text


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append JSON as one line and sync it to disk; where that fails, the file is as it was."""
    with path.open("ab") as stream:
        end = stream.seek(0, os.SEEK_END)
        try:
            stream.write(json.dumps(record).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), end)
            raise


def _last_number(path: Path) -> int:
    """The last whole line of a file of numbers; 0 where there is none."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return max((int(line) for line in lines if line.endswith(b"\n")), default=0)


def _locked(path: Path) -> "BaseFileLock | None":
    """A lock on the spool of that path; None where another holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_suffix(".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
