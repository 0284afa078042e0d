"""The file that a study lives in: shared by processes, mended after a kill, refused where it is corrupt."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from transferline.errors import UserError


class Journal:
    """Optuna's operations on one study, a line of JSON each, and the lock that all its processes share.

    The lock is one of the operating system's, which frees it when its holder is killed; Optuna's own, a symbolic link,
    would keep everyone waiting for half a minute. It may be taken again by who holds it.

    Args:
        path: of the file; made where there is none.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = path, FileLock(path.with_suffix(".lock"))
        stale = path.with_name(path.name + ".lock")
        if stale.is_symlink():
            stale.unlink(missing_ok=True)
            print(f"tune: {stale} was left by a process that is gone: removed", flush=True)

    def open(self) -> JournalStorage:
        """What is in it now.

        Raises:
            UserError: where a line that is not the last is no operation of Optuna's.
        """
        try:
            return JournalStorage(_Backend(str(self.path), _Lock(self)))
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be opened: {error.strerror}", "mend that, and run 'dvc repro'"
            ) from None
        except Exception as error:  # ValueError, KeyError, AssertionError and more, by what is broken
            raise self._corrupt(error) from None

    def mend(self) -> None:
        """Cut off a last line that a kill or a loss of power left half-written. For who holds the lock."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as stream:
            size = stream.seek(0, 2)
            if size == 0 or (stream.seek(size - 1) and stream.read(1) == b"\n"):
                return
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        print(f"tune: the last line of {self.path} was half-written when a process was killed: cut off", flush=True)

    def _corrupt(self, error: Exception) -> UserError:
        number = self._first_broken()
        where = f"{self.path}, line {number}," if number else str(self.path)
        keep = f"; or cut it to its first {number - 1} lines to keep those trials" if number and number > 1 else ""
        return UserError(
            f"{where} is corrupt: {type(error).__name__}: {error}",
            f"delete the file, and 'dvc repro' starts the study anew{keep}",
        )

    def _first_broken(self) -> int | None:
        for number, line in enumerate(self.path.read_bytes().splitlines(), 1):
            try:
                json.loads(line)["op_code"]
            except (ValueError, KeyError, TypeError):
                return number
        return None


class _Lock(BaseJournalFileLock):
    """The journal's lock, as Optuna takes it around each write; the file then ends with a whole line."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def acquire(self) -> bool:
        self.journal.lock.acquire()
        try:
            self.journal.mend()
        except BaseException:
            self.journal.lock.release()
            raise
        return True

    def release(self) -> None:
        self.journal.lock.release()


class _Backend(JournalFileBackend):
    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            raise UserError(
                f"{self._file_path} cannot be written: {error.strerror}",
                "mend that, and run 'dvc repro': the trials that are done are kept",
            ) from None
