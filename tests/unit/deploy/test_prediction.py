"""`transferline predict` as a process and as a whole: streams, interruptions, files, and what it loads."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from transferline import cores
from transferline.data.images import ImageError
from transferline.deploy import prediction, screen
from transferline.deploy.answers import Answer
from transferline.deploy.cli import app
from transferline.deploy.inputs import Input
from transferline.deploy.prediction import Options
from transferline.deploy.streaming import Plan

from .conftest import CLASSES, Line

PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # be it ignored where tests run
    "from transferline.deploy.cli import app\n"
    "app()\n"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def start(*arguments: object, program: str = PROGRAM) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, "predict", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def folder(line: Line, tmp_path: Path) -> Path:
    """40 images of several sizes, two of which are broken."""
    root = tmp_path / "images"
    root.mkdir()
    for index in range(40):
        shutil.copyfile(line.reference.root / line.reference.predictions.paths[index % 6], root / f"{index:02}.png")
    for index in (7, 20):
        (root / f"{index:02}.png").write_bytes(b"no image")
    return root


@pytest.fixture
def many(line: Line, tmp_path: Path) -> Path:
    """Images for longer than a test waits."""
    root = tmp_path / "many"
    root.mkdir()
    for index in range(20_000):
        (root / f"{index}.png").symlink_to(line.reference.root / line.reference.predictions.paths[0])
    return root


@pytest.mark.parametrize("options", [[], ["--batch-size", 8, "--threads", 3], ["--threads", 1]])
def test_output_holds_every_image_in_order_and_the_broken_ones_with_why(
    options: list[object], line: Line, folder: Path, tmp_path: Path
) -> None:
    found = {}
    for suffix in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"found.{suffix}"
        result = run(line.model, folder, "--output", path, *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{folder / '07.png'}: not an image" in result.stderr
        assert "40 images in " in result.stderr
        assert result.stderr.endswith(f"images/s; 2 could not be read -> {path}\n")
        found[suffix] = path
    with found["csv"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(found["parquet"]).to_pylist()
    lines = [json.loads(text) for text in found["jsonl"].read_text(encoding="utf-8").splitlines()]
    predictions = line.reference.predictions
    for index, (row, record, said) in enumerate(zip(rows, table, lines, strict=True)):
        assert {row["image"], record["image"], said["image"]} == {str(folder / f"{index:02}.png")}
        if index in (7, 20):
            assert {row["error"], record["error"], said["error"]} == {"not an image"}
            continue
        assert {row["class"], record["class"], said["class"]} == {predictions.predicted[index % 6]}
        for column, name in enumerate(CLASSES):
            values = float(row[f"p:{name}"]), record[f"p:{name}"], said["probabilities"][name]
            np.testing.assert_allclose(values, predictions.probabilities[index % 6, column], atol=1e-4)


def test_json_is_printed_beside_a_file_and_a_table_is_not(line: Line, folder: Path, tmp_path: Path) -> None:
    result = run(line.model, folder, "--json", "--top", 1, "--output", tmp_path / "found.jsonl")
    printed = [json.loads(text) for text in result.stdout.splitlines()]
    assert len(printed) == 38
    assert {len(record["probabilities"]) for record in printed} == {1}
    kept = [json.loads(text) for text in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [record["class"] for record in printed] == [record["class"] for record in kept if "class" in record]
    assert {len(record["probabilities"]) for record in kept if "class" in record} == {3}


def test_many_images_are_several_tables(line: Line, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_TABLE", 10)
    result = run(line.model, folder)
    assert result.stdout.count("probability") == 4
    names = [text.split("/")[-1][:6] for text in result.stdout.splitlines() if ".png" in text]
    assert names == [f"{index:02}.png" for index in range(40) if index not in (7, 20)]


def test_an_output_of_no_known_format_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    result = run(tmp_path / "missing.onnx", tmp_path, "--output", "found.cvs")
    assert result.exit_code == 1
    assert "did you mean '.csv'?" in result.stderr


def test_a_reader_that_leaves_is_no_error_to_speak_of(line: Line, many: Path) -> None:
    for options in (["--json"], []):
        with start(line.model, many, *options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert (process.stderr.read(), process.wait(60)) == ("", 1)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ctrl_c_leaves_no_file_and_no_traceback(line: Line, many: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "out" / f"found.{suffix}"
    process = start(line.model, many, "--json", "--output", path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["class"] in CLASSES
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == f"stopped; {path} was not written\n"
    assert all(json.loads(text) for text in printed.splitlines())  # none is cut off
    assert list(path.parent.iterdir()) == []


def test_nothing_heavy_is_loaded(line: Line, folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from transferline.deploy.cli import app\n"
        "try:\n    app()\n"
        "finally:\n    print([name for name in {heavy} if name in sys.modules])\n"
    )
    heavy = ["torch", "mlflow", "pandas", "sklearn", "scipy", "matplotlib", "onnx", "optuna"]
    for options, further in (([], ["pyarrow"]), (["--output", tmp_path / "a.parquet"], [])):
        given = line.model, folder, *options
        process = start(*given, program=program.replace("{heavy}", repr(heavy + further)))
        printed, _ = process.communicate(timeout=120)
        assert printed.splitlines()[-1] == "[]"


def test_the_bar_shows_how_many_of_how_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    bar = screen.Bar([str(folder)], console, quiet=False)
    counted = bar._count
    monkeypatch.setattr(bar, "_count", lambda: None)
    with bar.shown():
        counted()
        for _ in range(3):
            bar.advance()
        assert sys.stdout is not console.file
        bar.end()
        bar.advance()
    assert "3/40" in text.getvalue()


def test_a_quiet_bar_prints_nothing(folder: Path) -> None:
    text = io.StringIO()
    bar = screen.Bar([str(folder)], Console(file=text), quiet=True)
    with bar.shown():
        bar.advance()
        bar.end()
    assert text.getvalue() == ""


def test_what_was_answered_before_a_stop_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        with screen.tables(None, multilabel=False, before=lambda: None) as sink:
            sink(Input("a.png", b""), Answer(None, [("blau", 1.0)]))
            sink(Input("b.png", b""), ImageError("not an image"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    out = capsys.readouterr().out
    assert "a.png" in out
    assert "b.png" not in out


def test_defaults_are_a_run_a_core_on_the_cpu_and_one_of_many_images_elsewhere() -> None:
    assert prediction.plan(Options(threads=4), on_cpu=True) == Plan(1, 5, 4)
    assert prediction.plan(Options(threads=4), on_cpu=False) == Plan(32, 5, 1)
    assert prediction.plan(Options(batch_size=7), on_cpu=False).batch_size == 7
    assert prediction.plan(Options(), on_cpu=True).runs == cores.usable()


def test_a_provider_that_is_not_here_or_not_known_is_a_message(line: Line, folder: Path) -> None:
    result = run(line.model, folder, "--providers", "cpu")
    assert result.stdout.count("\n") > 38
    result = run(line.model, folder, "--providers", "cdua, cpu")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean 'cuda'?" in result.stderr


def test_a_model_of_the_registry_is_looked_for_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (2, 2)).save("a.png")
    result = run("models:/transferline@champion", "a.png")
    assert result.exit_code == 1
    assert "is no Transferline project" in result.stderr
