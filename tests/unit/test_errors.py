"""A user's mistake is one message and exit code 1; a signal unwinds the stack and keeps its own code."""

import subprocess
import sys

import pytest

from transferline.errors import UserError, nearest

SIGNALLED = """
import os, signal
from transferline import errors

def main():
    try:
        os.kill(os.getpid(), signal.{signal})
        signal.pause()
    finally:
        print("closed", flush=True)

errors.run(main)
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


def test_message_holds_what_is_wrong_and_what_to_do() -> None:
    assert str(UserError("x is broken", "mend x")) == "x is broken\n  mend x"


def test_message_without_a_fix_is_one_line() -> None:
    assert str(UserError("x is broken")) == "x is broken"


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


def test_nearest_names_the_closest_choice() -> None:
    assert nearest("rotatoin", ["scale", "rotation"]) == "did you mean 'rotation'?"


def test_nearest_lists_all_choices_where_none_is_close() -> None:
    assert nearest("zzz", ["scale", "rotation"]) == "choose one of: rotation, scale"


def test_user_error_ends_the_process_with_1_and_its_message_alone() -> None:
    ended = _python(
        "from transferline import errors\n"
        "def main():\n    raise errors.UserError('x is broken', 'mend x')\n"
        "errors.run(main)"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "error: x is broken\n  mend x\n")


def test_our_own_fault_keeps_its_traceback() -> None:
    ended = _python("from transferline import errors\ndef main():\n    assert False, 'promise'\nerrors.run(main)")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "promise" in ended.stderr


def test_success_ends_the_process_with_0() -> None:
    ended = _python("from transferline import errors\nerrors.run(lambda: print('done'))")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signal_unwinds_the_stack_and_gives_its_own_exit_code(signal: str, code: int) -> None:
    ended = _python(SIGNALLED.format(signal=signal))
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "closed\n", "")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("SystemExit", 1),
        ("SystemExit(0)", 1),
        ("SystemExit(3)", 3),
        ("SIGTERMException", 143),
    ],
)
def test_an_exit_before_the_end_is_never_taken_for_success(raised: str, code: int) -> None:
    exception = "class SIGTERMException(SystemExit): pass\n"  # as Lightning's
    ended = _python(f"from transferline import errors\n{exception}def main():\n    raise {raised}\nerrors.run(main)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


@pytest.mark.parametrize("error", ["errors.UserError(text, text)", "RuntimeError(text)"], ids=["mistake", "bug"])
def test_no_secret_reaches_a_message_or_a_traceback(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hushhush")
    ended = _python(
        "import os\nfrom transferline import errors\n"
        "text = 'no answer from http://ann:pass-word@host with ' + os.environ['HF_TOKEN']\n"
        f"def main():\n    raise {error}\n"
        "errors.run(main)"
    )
    assert ended.returncode == 1
    assert "no answer from http://ann:***@host with ***" in ended.stderr
    assert "pass-word" not in ended.stderr.replace("ann:pass-word@host with '", "")  # but for the line of the code
    assert "hf_hushhush" not in ended.stderr
