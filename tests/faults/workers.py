"""Processes that a test may kill: forked, since importing torch and Lightning anew would take ten seconds each."""

import multiprocessing
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


def until(happened: Callable[[], Any]) -> None:
    """Return once it has; fail after a long time."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
