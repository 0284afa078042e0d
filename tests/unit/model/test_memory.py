"""What glibc does with memory that is freed."""

import platform
import subprocess
import sys

import pytest

from transferline.model import memory

SCRIPT = """
import resource, sys, torch
from transferline.model import memory

def step():
    values = [torch.ones(10 << 20)]  # 40 MB: beyond what glibc would keep by itself
    for number in range(4):
        values.append(values[-1] * 2)

if sys.argv[1] == "kept":
    assert memory.keep_freed()
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages that the system had to give for eight equal steps, after as many to warm up."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's setting")
def test_what_is_freed_serves_the_next_step() -> None:
    assert faults("kept") < faults("given back") / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()
