"""What a CPU's memory costs in training."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed() -> bool:
    """Have the C library keep what is freed for the next step; whether it could be told so.

    glibc maps every tensor beyond 32 MB anew and gives it back when it is freed, so each step has the system zero
    each of its pages again: up to half of a training step on a CPU (`benchmarks/step.py`). The process
    keeps the memory of its largest step until it ends. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
