"""The cores of a container, from what the kernel says of its control groups."""

import os
from pathlib import Path

import pytest

from transferline import cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores, whose files of control groups are written by the test."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_HELD", tmp_path / "held")
    write(tmp_path / "cgroup", "0::/\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_an_unlimited_process_has_the_machines_cores(machine: Path) -> None:
    write(machine / "held/cpu.max", "max 100000\n")
    assert (cores.usable(), cores.limited()) == (64, False)


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("250000", 3), ("50000", 1)])
def test_a_container_has_its_quota_rounded_up(machine: Path, quota: str, expected: int) -> None:
    write(machine / "held/cpu.max", f"{quota} 100000\n")
    assert (cores.usable(), cores.limited()) == (expected, True)


def test_the_tightest_of_nested_groups_counts(machine: Path) -> None:
    write(machine / "cgroup", "0::/pod/inner\n")
    write(machine / "held/pod/cpu.max", "400000 100000\n")
    write(machine / "held/pod/inner/cpu.max", "max 100000\n")
    write(machine / "held/cpu.max", "800000 100000\n")
    assert cores.usable() == 4


def test_groups_of_version_1_count_too(machine: Path) -> None:
    write(machine / "cgroup", "3:cpuset:/\n2:cpu,cpuacct:/docker/0a\n1:memory:/docker/0a\n")
    for name, value in (("quota", "300000"), ("period", "100000")):
        write(machine / f"held/cpu,cpuacct/cpu.cfs_{name}_us", f"{value}\n")  # all that a container sees of it
    assert cores.usable() == 3


def test_affinity_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7})
    assert (cores.usable(), cores.limited()) == (2, True)


def test_without_control_groups_there_is_no_quota(machine: Path) -> None:
    (machine / "cgroup").unlink()
    assert cores.usable() == 64
