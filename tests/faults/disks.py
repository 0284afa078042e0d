"""Disks that are full, or that one may not write to: for real."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096  # bytes that a tmpfs hands out at once
NOBODY = 65534
FULL = r"(the disk is full|the file is larger than the file system or 'ulimit -f' allows)"
READ_ONLY = r"(the file system is read-only|permission is denied)"


@dataclass(frozen=True)
class Disk:
    """A small file system of its own; where none may be mounted, a folder, and limits that the system enforces."""

    root: Path
    mounted: bool

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        """Only `leave` bytes can be written; without a mount, to each file."""
        if not self.mounted:
            with _limited(leave):
                yield
            return
        filler = self.root / "filler"
        with filler.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(PAGE))
            except OSError:
                stream.truncate(max(stream.tell() - leave, 0))
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written; without a mount, for want of permission."""
        if not self.mounted:
            with forbidden(self.root):
                yield
            return
        subprocess.run(["mount", "-o", "remount,ro", str(self.root)], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(self.root)], check=True)


@contextmanager
def small_disk(root: Path, megabytes: int = 8) -> Iterator[Disk]:
    """A tmpfs where that may be mounted, as in CI."""
    root.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(root)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, check=False).returncode == 0
    try:
        yield Disk(root, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(root)], check=True)


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """This process, which root's rights are taken from, may read all of `folder` and write nothing in it."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    modes = {path: path.stat().st_mode for path in places}
    for path in places:
        path.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def _limited(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
