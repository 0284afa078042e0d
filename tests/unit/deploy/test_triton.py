"""The model repository, read with Triton's own schema, and held against the ONNX file that is in it."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema
from typer.testing import CliRunner

from transferline import seal
from transferline.deploy import triton
from transferline.deploy.cli import app
from transferline.errors import UserError

from .conftest import CLASSES, THRESHOLDS, Line

TYPES = {"tensor(uint8)": schema.TYPE_UINT8, "tensor(float)": schema.TYPE_FP32}


def written(line: Line, out: Path, **options: object) -> schema.ModelConfig:
    """The config that is written; a field that the schema does not know is a ParseError."""
    folder = triton.write(line.model, out, "transferline", triton.Options(**options))
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def with_properties(line: Line, path: Path, **properties: str) -> Path:
    """The model with other metadata."""
    model = onnx.load(line.model)
    onnx.helper.set_model_props(model, line.properties | properties | {seal.KEY: seal.BLANK})
    onnx.save(model, path)
    seal.seal(path)
    return path


def test_the_config_says_what_the_file_takes_and_gives(line: Line, tmp_path: Path) -> None:
    config = written(line, tmp_path, max_batch_size=16)
    session = onnxruntime.InferenceSession(tmp_path / config.name / "1" / "model.onnx")
    for stated, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [end.name for end in stated] == [end.name for end in real]
        assert [end.data_type for end in stated] == [TYPES[end.type] for end in real]
        # Triton puts the batch, which must be dynamic, before these; what is dynamic is -1
        sides = [[side if isinstance(side, int) else -1 for side in end.shape] for end in real]
        assert [[-1, *end.dims] for end in stated] == sides
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 16)


def test_labels_are_the_classes_in_the_order_of_the_outputs(line: Line, tmp_path: Path) -> None:
    config = written(line, tmp_path)
    assert {output.label_filename for output in config.output} == {"labels.txt"}
    assert (tmp_path / config.name / "labels.txt").read_bytes().decode().split("\n") == [*CLASSES, ""]
    assert (tmp_path / config.name / "1" / "model.onnx").read_bytes() == line.model.read_bytes()


def test_requests_are_batched_within_a_bound(line: Line, tmp_path: Path) -> None:
    config = written(line, tmp_path, max_batch_size=12, max_queue_delay=2.5)
    assert list(config.dynamic_batching.preferred_batch_size) == [3, 6, 12]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert list(written(line, tmp_path / "one", max_batch_size=1).dynamic_batching.preferred_batch_size) == [1]


def test_it_warms_up_with_an_image_of_the_models_size(line: Line, tmp_path: Path) -> None:
    (warmup,) = written(line, tmp_path).model_warmup
    assert (warmup.batch_size, list(warmup.inputs["images"].dims)) == (1, [32, 32, 3])
    assert warmup.inputs["images"].zero_data


@pytest.mark.parametrize(("kind", "expected"), [("auto", 0), ("gpu", 1), ("cpu", 2)])
def test_it_runs_where_one_says(line: Line, tmp_path: Path, kind: str, expected: int) -> None:
    (group,) = written(line, tmp_path, kind=kind, instances=3).instance_group
    assert (group.kind, group.count) == (expected, 3)


@pytest.mark.parametrize(("variant", "precision"), [("fp32", "FP32"), ("fp16", "FP16"), ("int8", "INT8")])
def test_tensorrt_computes_in_the_precision_of_the_variant(
    line: Line, tmp_path: Path, variant: str, precision: str
) -> None:
    model = with_properties(line, tmp_path / "model.onnx", variant=variant)
    config = written(replace(line, model=model), tmp_path, tensorrt=True)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("tensorrt", {"precision_mode": precision})
    assert not written(line, tmp_path / "plain").HasField("optimization")


def test_thresholds_of_label_sets_go_along(labelled_line: Line, tmp_path: Path) -> None:
    config = written(labelled_line, tmp_path)
    assert json.loads(config.parameters["thresholds"].string_value) == [THRESHOLDS[name] for name in CLASSES]


def test_strings_are_read_as_they_were() -> None:
    hostile = 'a"b\\c\n\t\x00\x7f\'grün 😀 } name: "x"'
    config = text_format.Parse(triton.text({"name": hostile}), schema.ModelConfig())
    assert config.name == hostile


@pytest.mark.parametrize("bad", ["a\nb", "a\r"])
def test_a_class_with_a_line_end_is_refused(line: Line, tmp_path: Path, bad: str) -> None:
    model = with_properties(line, tmp_path / "model.onnx", classes=json.dumps(["x", bad, "y"]))
    with pytest.raises(UserError, match="line end"):
        triton.write(model, tmp_path / "out", "transferline", triton.Options())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".hidden"])
def test_a_name_that_would_be_another_folder_is_refused(line: Line, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name"):
        triton.write(line.model, tmp_path, name, triton.Options())


def test_what_does_not_go_together_is_refused(line: Line, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="TensorRT runs on GPUs"):
        written(line, tmp_path, kind="cpu", tensorrt=True)
    with pytest.raises(UserError, match="did you mean 'cpu'"):
        written(line, tmp_path, kind="cpus")


def test_other_models_stay_and_ours_is_replaced_with_force_alone(line: Line, tmp_path: Path) -> None:
    other = tmp_path / "other" / "1"
    other.mkdir(parents=True)
    written(line, tmp_path)
    with pytest.raises(UserError, match="--force"):
        written(line, tmp_path)
    folder = triton.write(line.model, tmp_path, "transferline", triton.Options(max_batch_size=7), force=True)
    assert "max_batch_size: 7\n" in (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "transferline"}


@pytest.mark.parametrize("file", ["2/model.onnx", "notes.txt", "warmup/image"])
def test_what_a_user_added_is_never_deleted(line: Line, tmp_path: Path, file: str) -> None:
    written(line, tmp_path)
    added = tmp_path / "transferline" / file
    added.parent.mkdir(exist_ok=True)
    added.write_text("mine")
    with pytest.raises(UserError, match=f"also holds {file}"):
        triton.write(line.model, tmp_path, "transferline", triton.Options(), force=True)
    assert added.read_text() == "mine"


def test_a_folder_of_someone_else_is_never_replaced(line: Line, tmp_path: Path) -> None:
    config = tmp_path / "transferline" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text('name: "transferline"\n')
    with pytest.raises(UserError, match="did not write it"):
        triton.write(line.model, tmp_path, "transferline", triton.Options(), force=True)
    assert list(config.parent.iterdir()) == [config]


def test_nothing_is_left_where_writing_fails(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="cannot be written"):
        written(line, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_where_it_wrote(line: Line, tmp_path: Path) -> None:
    command = [
        "triton-repository",
        str(tmp_path / "out"),
        "--model",
        str(line.model),
        "--name",
        "weld",
        "--kind",
        "cpu",
    ]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, (tmp_path / "out" / "weld" / "config.pbtxt").is_file()) == (0, True)
    assert str(tmp_path / "out") in result.stdout
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "--force" in again.stderr) == (1, True)


def test_a_model_that_is_missing_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["triton-repository", str(tmp_path / "out"), "--model", str(tmp_path / "no.onnx")])
    assert (result.exit_code, "no.onnx is missing" in result.stderr) == (1, True)


def test_a_model_of_the_registry_is_looked_up_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["triton-repository", "out", "--model", "models:/transferline@champion"])
    assert (result.exit_code, "is no Transferline project" in result.stderr) == (1, True)
