"""What a command takes for its model; the script that asks MLflow is played by another here."""

from pathlib import Path

import pytest

from transferline.deploy import models
from transferline.errors import UserError


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A project whose pipeline/model.py is what is given."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    Path("pipeline").mkdir()
    Path("pipeline/__init__.py").touch()
    return lambda code: Path("pipeline/model.py").write_text(code, encoding="utf-8")


@pytest.mark.parametrize("given", ["model.onnx", "a/b@c.onnx", "/no/such.onnx", "C:\\models\\m.onnx"])
def test_a_path_stays_what_it_is(given: str) -> None:
    assert models.located(given) == Path(given)


@pytest.mark.parametrize(("given", "asked"), [("models:/tl@champion", "tl@champion"), ("models:/ö l/12", "ö l/12")])
def test_a_version_is_where_the_script_says(plays, capfd: pytest.CaptureFixture[str], given: str, asked: str) -> None:
    plays("import sys\nprint('model: looking for', *sys.argv[1:])\nprint('model: here -> .cache/ä -> b/model.onnx')")
    assert models.located(given) == Path("b/model.onnx")
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"model: looking for {asked}", "model: here -> .cache/ä -> b/model.onnx"]


def test_what_the_script_tells_the_user_is_told_once(plays, capfd: pytest.CaptureFixture[str]) -> None:
    plays(
        "import sys\nfrom transferline import errors\nfrom transferline.errors import UserError\n"
        "def main():\n    print('warning: of a library', file=sys.stderr)\n"
        "    raise UserError('no such model', 'do this')\n"
        "errors.run(main)"
    )
    with pytest.raises(UserError) as caught:
        models.located("models:/a@b")
    assert (caught.value.what, caught.value.fix) == ("no such model", "do this")
    assert capfd.readouterr().err == ""


def test_a_bug_in_the_script_is_none_of_the_users_mistakes(plays) -> None:
    plays("1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        models.located("models:/a@b")


def test_much_output_of_the_script_blocks_nothing(plays) -> None:
    plays("import sys\nsys.stderr.write('x' * 1_000_000)\nprint('y' * 1_000_000)\nprint('model: a -> b')")
    assert models.located("models:/a/1") == Path("b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("models:/tl", "models:/tl names no version of a model\n  give models:/NAME@ALIAS, as"),
        ("models:/tl/0", "names no version"),
        ("models:/tl/latest", "names no version"),
        ("models:/tl@a@b", "names no version"),
        ("models:/@champion", "names no version"),
        ("models:tl@champion", "no model that can be fetched\n  give a file, or models:/NAME@ALIAS"),
        ("runs:/0123/model", "no model that can be fetched"),
        ("https://example.org/model.onnx", "no model that can be fetched"),
    ],
)
def test_other_addresses_are_refused(plays, given: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        models.located(given)
    assert message in str(caught.value)


def test_outside_a_project_there_is_no_registry_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is no Transferline project: it lacks params.yaml or pipeline/model.py"):
        models.located("models:/transferline@champion")
