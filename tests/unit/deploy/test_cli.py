"""The command line: what is printed where, and the exit code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from transferline import reference
from transferline.deploy import speed
from transferline.deploy.cli import app

from .conftest import CLASSES, Line


def _run(*arguments: object, stdin: bytes | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def _json(result) -> list[dict]:
    return [json.loads(text) for text in result.stdout.splitlines()]


def test_files_are_printed_as_a_table(line: Line) -> None:
    first, second = (line.reference.root / path for path in line.reference.predictions.paths[:2])
    result = _run("predict", line.model, first, second)
    assert result.exit_code == 0
    assert "probability" in result.stdout
    for predicted in line.reference.predictions.predicted[:2]:
        assert predicted in result.stdout


def test_json_lines_carry_every_probability(line: Line) -> None:
    predictions = line.reference.predictions
    path = line.reference.root / predictions.paths[3]
    (entry,) = _json(_run("predict", line.model, path, "--json"))
    assert (entry["image"], entry["class"]) == (str(path), predictions.predicted[3])
    found = [entry["probabilities"][name] for name in CLASSES]
    np.testing.assert_allclose(found, predictions.probabilities[3], atol=1e-3)
    assert entry["probability"] == max(found)


def test_top_keeps_the_likeliest_classes(line: Line) -> None:
    path = line.reference.root / line.reference.predictions.paths[0]
    (entry,) = _json(_run("predict", line.model, path, "--json", "--top", 2))
    likeliest = np.argsort(-line.reference.predictions.probabilities[0])[:2]
    assert list(entry["probabilities"]) == [CLASSES[index] for index in likeliest]
    assert all(CLASSES[index] in _run("predict", line.model, path, "--top", 2).stdout for index in likeliest)


def test_label_sets_are_printed_a_row_a_label_likeliest_first(labelled_line: Line) -> None:
    predictions = labelled_line.reference.predictions
    for path, expected, row in zip(predictions.paths, predictions.predicted, predictions.probabilities, strict=True):
        result = _run("predict", labelled_line.model, labelled_line.reference.root / path)
        assert result.exit_code == 0
        assert "label" in result.stdout
        found = [name for text in result.stdout.splitlines() for name in CLASSES if f" {name} " in text]
        names = expected.split(";") if expected else []
        assert found == sorted(names, key=lambda name: -row[CLASSES.index(name)])
        assert ("(no label)" in result.stdout) == (not names)


def test_json_of_label_sets_has_the_labels_and_every_probability(labelled_line: Line) -> None:
    predictions, root = labelled_line.reference.predictions, labelled_line.reference.root
    files = [root / path for path in predictions.paths]
    entries = _json(_run("predict", labelled_line.model, *files, "--json"))
    assert [";".join(entry["labels"]) for entry in entries] == predictions.predicted
    assert set(entries[0]) == {"image", "labels", "probabilities"}
    found = [[entry["probabilities"][name] for name in CLASSES] for entry in entries]
    np.testing.assert_allclose(found, predictions.probabilities, atol=1e-3)


def test_top_of_label_sets_shows_the_likeliest_given_or_not(labelled_line: Line) -> None:
    path = labelled_line.reference.root / labelled_line.reference.predictions.paths[0]
    assert all(name in _run("predict", labelled_line.model, path, "--top", 3).stdout for name in CLASSES)


def test_folder_gives_its_images_by_content_sorted(line: Line, tmp_path: Path) -> None:
    source = line.reference.root / line.reference.predictions.paths[0]
    for name in ("b/deep.png", "a", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    result = _run("predict", line.model, tmp_path, "--json")
    assert result.exit_code == 0
    assert [Path(entry["image"]).relative_to(tmp_path).as_posix() for entry in _json(result)] == [
        "a",
        "b/deep.png",
        "c.png",
    ]


def test_folder_without_images_is_a_message(line: Line, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    result = _run("predict", line.model, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds no images" in result.stderr


def test_image_on_standard_input(line: Line) -> None:
    content = (line.reference.root / line.reference.predictions.paths[0]).read_bytes()
    (entry,) = _json(_run("predict", line.model, "-", "--json", stdin=content))
    assert (entry["image"], entry["class"]) == ("-", line.reference.predictions.predicted[0])


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_bad_image_is_named_and_the_rest_go_on(option: list[str], line: Line, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    good = line.reference.root / line.reference.predictions.paths[0]
    result = _run("predict", line.model, tmp_path / "broken.jpg", tmp_path / "absent.png", good, *option)
    assert result.exit_code == 1
    assert "broken.jpg: not an image" in result.stderr
    assert "absent.png: unreadable" in result.stderr
    assert good.name in result.stdout
    assert "broken.jpg" not in result.stdout


def test_name_that_looks_like_markup_is_printed_as_it_is(line: Line, tmp_path: Path) -> None:
    path = tmp_path / "[red]x.png"
    shutil.copyfile(line.reference.root / line.reference.predictions.paths[0], path)
    assert str(path) in _run("predict", line.model, path).stdout


def test_missing_model_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    result = _run("predict", tmp_path / "model.onnx", "x.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "dvc repro" in result.stderr


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / label / f"{index}.png")
    (tmp_path / "params.yaml").write_text("data: {root: images}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "forward_seconds", lambda *_: 6.0)
    return tmp_path


def test_check_prints_the_plan(project: Path) -> None:
    result = _run("check")
    assert result.exit_code == 0
    assert "images holds 8 files in 2 classes" in result.stdout
    assert "split: 6 train, 1 val, 1 test" in result.stdout
    assert "finetune" in result.stdout
    assert "minutes, about" in result.stdout
    assert "minutes in all, the search at its longest" in result.stdout


def test_check_prints_the_plan_of_label_sets(project: Path) -> None:
    rows = "".join(f"{label}/{index}.png,{int(index < 3)},1\n" for label in ("cat", "dog") for index in range(3))
    (project / "images" / "labels.csv").write_text(f"path,striped,animal\n{rows}")
    (project / "params.yaml").write_text("data: {root: images, labels: labels.csv}")
    result = _run("check")
    assert result.exit_code == 0, result.stderr
    assert "images holds 6 files with 2 labels (labels.csv)" in result.stdout
    assert "100.0%" in result.stdout
    assert "2 files are not in labels.csv and are left out: cat/3.png" in result.stdout


def test_check_tells_of_the_key_where_the_folder_has_labels_and_no_classes(project: Path) -> None:
    (project / "images" / "cat").rename(project / "images" / "dog" / "more")
    (project / "images" / "labels.csv").touch()
    result = _run("check")
    assert result.exit_code == 1
    assert "set data.labels: labels.csv" in result.stderr


def test_check_names_a_mistake_in_the_parameters(project: Path) -> None:
    (project / "params.yaml").write_text("model: {backbone: resnet81}")
    result = _run("check")
    assert result.exit_code == 1
    assert "did you mean 'resnet18'?" in result.stderr


def test_check_names_a_missing_folder(project: Path) -> None:
    (project / "params.yaml").write_text("data: {root: pictures}")
    result = _run("check")
    assert result.exit_code == 1
    assert "'pictures' does not exist" in result.stderr


def test_check_plans_on_the_sample_before_it_is_laid_out(project: Path) -> None:
    (project / "params.yaml").write_text("")
    result = _run("check")
    assert result.exit_code == 0
    assert "fetch will lay the sample out" in result.stdout
    assert "2000 files in 3 classes" in result.stdout


def test_check_leaves_a_data_set_that_is_to_be_downloaded_to_fetch(project: Path) -> None:
    (project / "params.yaml").write_text("data: {torchvision: CIFAR10}")
    result = _run("check")
    assert result.exit_code == 0
    assert "'dvc repro fetch' downloads CIFAR10" in result.stdout


def test_params_prints_the_reference() -> None:
    assert _run("params").stdout == reference.markdown()


@pytest.mark.parametrize("lacking", ["params.yaml", "pipeline/compare.py"])
def test_scripts_are_run_in_a_project_alone(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipeline").mkdir()
    for path in (Path("params.yaml"), Path("pipeline/compare.py")):
        path.write_text("")
    Path(lacking).unlink()
    result = _run("compare-backbones")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is no Transferline project")


@pytest.mark.parametrize(
    ("command", "script", "arguments"),
    [
        ("compare-backbones", "compare", []),
        ("compare-backbones", "compare", ["vgg16", "resnet18"]),
        ("lr-find", "lr_find", []),
        ("sync", "sync", []),
    ],
)
def test_a_script_of_the_project_is_run_as_from_its_root(
    command: str, script: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["transferline"])
    monkeypatch.setattr("sys.path", [])
    Path("params.yaml").write_text("")
    Path("pipeline").mkdir()
    Path("pipeline", f"{script}.py").write_text(
        "import json, sys\n"
        "if __name__ == '__main__':\n"
        "    print(json.dumps([sys.argv[1:], sys.path[0]]))\n"
        "    sys.exit(3)\n"
    )
    result = _run(command, *arguments)
    assert json.loads(result.stdout) == [arguments, str(tmp_path)]
    assert result.exit_code == 3  # the script's own: 1 for a mistake, 143 where it was ended
