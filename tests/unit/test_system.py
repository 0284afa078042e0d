"""What the machine refuses is said in words; what is a bug is left alone."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from transferline import artifacts, system
from transferline.errors import UserError, as_user_error


def ended(code: str) -> subprocess.CompletedProcess[str]:
    program = f"from transferline import errors\nimport errno\ndef main():\n    {code}\nerrors.run(main)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise OSError(errno.ENOSPC, 'No space left', '/nowhere/a.txt')", "error: /nowhere/a.txt: the disk is full ("),
        ("raise OSError(errno.EROFS, 'Read-only', '/nowhere')", "error: /nowhere: the file system is read-only\n"),
        ("raise PermissionError(errno.EACCES, 'denied', '/nowhere/a')", "error: /nowhere/a: permission is denied\n"),
        ("raise OSError('[Errno 28] No space left on device')", "error: the disk is full ("),
        ("bytes(1 << 62)", "error: memory is used up\n"),
    ],
)
def test_what_nobody_expected_of_the_machine_ends_in_one_message(code: str, message: str) -> None:
    done = ended(code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert "'dvc repro' then goes on" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "open('/nowhere/a.txt')",
        "raise RuntimeError('[Errno 28] is only talked about')",
        "raise ConnectionResetError(errno.ECONNRESET, 'reset')",
        "raise KeyError('x')",
    ],
)
def test_a_bug_keeps_its_traceback(code: str) -> None:
    done = ended(code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_what_a_full_disk_led_to_is_that_of_a_full_disk() -> None:
    def fail(number: int) -> None:
        try:
            raise OSError(number, "first")
        except OSError as error:
            raise RuntimeError("the archive is not whole") from error

    with pytest.raises(RuntimeError) as full:
        fail(errno.ENOSPC)
    assert "the disk is full" in str(as_user_error(full.value))
    with pytest.raises(RuntimeError) as denied:
        fail(errno.EACCES)
    assert as_user_error(denied.value) is None


def test_a_database_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    import sqlite3

    sqlite3.connect(tmp_path / "a.db").execute("create table t (x)").connection.close()
    store = sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as caught:
        store.execute("insert into t values (1)")
    store.close()
    assert str(as_user_error(caught.value)).startswith("the database of runs: the file system is read-only")


def test_a_user_error_is_shown_as_it_is() -> None:
    error = UserError("a", "b")
    assert as_user_error(error) is error


def test_an_error_without_a_reason_is_put_down_to_the_disk_only_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("100 requested and 24 written")
    assert system.filling(error, tmp_path) is None
    monkeypatch.setattr(system, "free", lambda _: 0)
    assert system.filling(error, tmp_path) == errno.ENOSPC
    assert system.filling(ValueError("100"), tmp_path) is None


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    for path in ("reports/a.json", "reports/sub/a.json"):
        with pytest.raises(UserError, match=rf"{path} cannot be written: .*/reports\S* is no folder"):
            artifacts.write_text(tmp_path / path, "")
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=r"cannot be written: .*/models is a folder"):
        artifacts.write_text(tmp_path / "models", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "reports"]


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json cannot be written: the name is too long"):
        artifacts.write_text(tmp_path / f"{'x' * 300}.json", "")


def test_an_error_about_another_file_is_left_to_who_knows_it(tmp_path: Path) -> None:
    def fail() -> None:
        with artifacts.atomic(tmp_path / "a.txt"):
            raise PermissionError(errno.EACCES, "denied", "/elsewhere/b.txt")

    with pytest.raises(PermissionError):
        fail()
