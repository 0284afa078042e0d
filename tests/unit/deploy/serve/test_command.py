"""`transferline serve` on the command line: its options and its messages."""

import re
import socket
import sys

import pytest
import typer
from typer.testing import CliRunner

from transferline.deploy import cli
from transferline.deploy.serve.settings import Settings


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(cli.app, ["serve", *map(str, arguments)], env={"COLUMNS": "200"})
    return found.exit_code, found.stderr


def test_a_missing_extra_is_one_message(line, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, said = run(line.model)
    assert code == 1
    assert said == "error: serve needs uvicorn, which is not installed\n  pip install 'transferline[serve]'\n"


def test_a_port_that_is_taken_is_one_message(line) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = run(line.model, "--port", port)
    assert code == 1
    assert said == f"error: port {port} of 127.0.0.1 is in use\n  stop what uses it, or give --port {port + 1}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--host", "nowhere.invalid"), "error: --host: nowhere.invalid is no address"),
        (("--host", "192.0.2.1"), "error: cannot listen at 192.0.2.1:"),
        (("--queue", "8"), "error: max_images: 32 never fit into queue: 8\n  raise queue"),
    ],
)
def test_what_cannot_be_served_is_one_message(line, arguments, told) -> None:
    code, said = run(line.model, "--port", 0, *arguments)
    assert code == 1
    assert said.startswith(told)


def test_a_missing_model_is_one_message(tmp_path) -> None:
    code, said = run(tmp_path / "none.onnx", "--port", 0)
    assert code == 1
    assert said.startswith(f"error: {tmp_path / 'none.onnx'} is missing\n")


def test_the_help_tells_the_defaults_that_hold() -> None:
    options = {option.name: option for option in typer.main.get_command(cli.app).commands["serve"].params}
    told = {
        name: re.search(r"\[default: ([\d.]+)\]", getattr(option, "help", "") or "") for name, option in options.items()
    }
    defaults = {name: float(found[1]) for name, found in told.items() if found}
    assert defaults == {name: Settings.model_fields[name].default for name in defaults}
    assert set(defaults) == set(options) & set(Settings.model_fields) - {"max_batch", "runs"}
