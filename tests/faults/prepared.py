"""What prepare makes of a folder, in a process of its own."""

import faulthandler
import multiprocessing
import os
import pickle
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.faults.folders import CRASH, HANG
from transferline.data import images, inspection, manifest, sources
from transferline.errors import UserError
from transferline.sections import Prepare, Split

NOBODY = 65534
DECODE = images.decode


def deadly(data: bytes, **limits: int) -> np.ndarray:
    """As images.decode, but for two files."""
    if data == CRASH:
        faulthandler.disable()  # pytest's would tell of it at length
        os.abort()
    if data == HANG:
        time.sleep(3600)
    return DECODE(data, **limits)


def prepare(root: Path, seconds: float, unprivileged: bool = False) -> manifest.Prepared | str:
    """What is prepared in `root`, or the one message where it is refused; `exclude.txt` lies beside `root`.

    Args:
        seconds: that a file may take.
        unprivileged: permissions bind, whoever runs the tests.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_prepare, args=(root, seconds, unprivileged, sender))
    process.start()
    sender.close()
    with receiver:
        told: bytes = receiver.recv_bytes()  # an EOFError where it crashed
    process.join()
    found: manifest.Prepared | str = pickle.loads(told)  # noqa: S301 - from our own process
    return found


def _prepare(root: Path, seconds: float, unprivileged: bool, sender: Connection) -> None:
    os.chdir(root.parent)
    if unprivileged and os.geteuid() == 0:
        root.parent.chmod(0o755)
        os.setuid(NOBODY)
    images.decode = deadly
    inspection.inspect_all = partial(inspection.inspect_all, seconds=seconds)
    try:
        prepared = manifest.build(sources.scan(Path(root.name)), Split(), Prepare(), seed=1)
        sender.send_bytes(pickle.dumps(prepared))
    except UserError as error:
        sender.send_bytes(pickle.dumps(str(error)))
