"""Processes that a test may kill: forked, since importing torch and Lightning anew would take ten seconds each.

Those that train are not: torch aborts at times in a fork of a process that has used it.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

PATIENCE = 60.0  # seconds, on a machine that has much else to do


def forked(work: Callable[..., Any], *given: Any) -> BaseProcess:
    """A process of its own, already at work; it ends with the test run at the latest."""
    process = multiprocessing.get_context("fork").Process(target=work, args=given, daemon=True)
    process.start()
    return process


def started(code: str) -> subprocess.Popen[bytes]:
    """Python at work on `code`, which may import the tests, with one thread."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def until(happened: Callable[[], Any]) -> None:
    """Return once it has; fail after a long time."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
