"""How many processor cores this process may use: a container's share, not the machine it runs on."""

import math
import os
from pathlib import Path

_GROUPS, _HELD = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable() -> int:
    """Cores that the affinity mask and the control groups' quota leave to this process, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(_GROUPS, _HELD)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def limited() -> bool:
    """Whether that is less than the machine has."""
    return usable() < (os.cpu_count() or 1)


def _quota(groups: Path, held: Path) -> float | None:
    """The smallest CPU quota, in cores, of the control groups (version 2 or 1) around this process."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = held / controllers if controllers else held
        inner = root / path.lstrip("/")
        # a container without a name space of its own for control groups is told a path that it cannot see
        for folder in {inner, *(above for above in inner.parents if above.is_relative_to(root)), root}:
            found += [_of_group(folder)]
    return min((cores for cores in found if cores is not None), default=None)


def _of_group(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{key}_us").read_text(encoding="utf-8") for key in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no such limit, or "max"
        return None
