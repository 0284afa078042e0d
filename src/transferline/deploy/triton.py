"""A model repository of NVIDIA's Triton Inference Server, made of an exported model.

Written after its schema, model_config.proto, against which a test holds it; no Triton server and no GPU has run it yet.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transferline.artifacts import atomic
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError, nearest

KINDS = ("auto", "cpu", "gpu")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SIGN = "# Written by `transferline triton-repository`.\n"
_CONFIG, _LABELS, _MODEL = "config.pbtxt", "labels.txt", "1/model.onnx"


@dataclass(frozen=True)
class Options:
    """How Triton serves the model.

    Attributes:
        max_batch_size: images that it runs at once, at most.
        max_queue_delay: milliseconds that a request waits for others to fill a batch, at most.
        kind: of KINDS, where it runs; auto is on every GPU there is, on the CPU else.
        instances: copies of the model, per GPU, that run at once.
        tensorrt: have onnxruntime hand to TensorRT what it takes.
    """

    max_batch_size: int = 32
    max_queue_delay: float = 5.0
    kind: str = "auto"
    instances: int = 1
    tensorrt: bool = False


class Symbol(str):
    """A value of an enumeration, which is written without quotes."""


Value = str | int | bool | list["Value"] | Mapping[str, "Value"]


def write(model: Path, out: Path, name: str, options: Options, *, force: bool = False) -> Path:
    """Write `out`/`name`, with version 1 of the model, whole or not at all; what else is in `out` stays.

    Args:
        name: that clients ask for.
        force: replace what this command wrote there before.

    Returns:
        The folder `out`/`name`.

    Raises:
        UserError: where the model cannot be served so, or the folder may not be replaced.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name for a model", "begin with a letter or digit; add those and . _ -")
    if options.kind not in KINDS:
        raise UserError(f"--kind: '{options.kind}' is not known", nearest(options.kind, KINDS))
    if options.tensorrt and options.kind == "cpu":
        raise UserError("TensorRT runs on GPUs alone", "leave out --tensorrt, or give --kind gpu")
    predictor, folder = Predictor(model), out / name
    files = {_CONFIG: _SIGN + text(config(predictor, name, options)), _LABELS: labels(predictor.classes, model)}
    _require_free(folder, force=force)
    with atomic(folder) as partial:
        (partial / _MODEL).parent.mkdir(parents=True)
        shutil.copyfile(model, partial / _MODEL)
        for file, content in files.items():
            (partial / file).write_text(content, encoding="utf-8", newline="\n")
    return folder


def labels(classes: Iterable[str], model: Path) -> str:
    """A class a line, in the order of the outputs. Raises UserError where a name has a line end in it."""
    for name in classes:
        if "\n" in name or "\r" in name:
            raise UserError(
                f"{model}: class {name!r} has a line end in its name, and Triton reads a label a line",
                "rename its class folder; 'dvc repro' then makes the model anew",
            )
    return "".join(f"{name}\n" for name in classes)


def config(predictor: Predictor, name: str, options: Options) -> dict[str, Value]:
    """The fields of a ModelConfig; shapes are without the batch, which Triton puts before them."""
    side, classes = int(predictor.metadata.get("input_size", 224)), len(predictor.classes)
    answer: dict[str, Value] = {"data_type": Symbol("TYPE_FP32"), "dims": [classes], "label_filename": _LABELS}
    image: dict[str, Value] = {"data_type": Symbol("TYPE_UINT8"), "dims": [side, side, 3], "zero_data": True}
    size = options.max_batch_size
    found: dict[str, Value] = {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": size,
        "input": [{"name": "images", "data_type": Symbol("TYPE_UINT8"), "dims": [-1, -1, 3]}],
        "output": [{"name": "probabilities", **answer}, {"name": "logits", **answer}],
        "dynamic_batching": {
            "preferred_batch_size": [*sorted({max(1, size // 4), max(1, size // 2), size})],
            "max_queue_delay_microseconds": round(options.max_queue_delay * 1000),
        },
        "instance_group": [{"kind": Symbol(f"KIND_{options.kind.upper()}"), "count": options.instances}],
        "model_warmup": [{"name": "one image", "batch_size": 1, "inputs": [{"key": "images", "value": image}]}],
    }
    if predictor.thresholds is not None:  # what Triton answers are probabilities: the client cuts them
        cuts = json.dumps(predictor.thresholds.tolist())
        found["parameters"] = [{"key": "thresholds", "value": {"string_value": cuts}}]
    if options.tensorrt:
        precision = {"fp16": "FP16", "int8": "INT8"}.get(predictor.metadata.get("variant", ""), "FP32")
        given: Value = [{"key": "precision_mode", "value": precision}]
        accelerator: Value = [{"name": "tensorrt", "parameters": given}]
        found["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": accelerator}}
    return found


def text(message: Mapping[str, Value], indent: str = "") -> str:
    """A message in protobuf's text format: a line a field, a block for each message of a list of them."""
    lines = []
    for field, value in message.items():
        for each in value if isinstance(value, list) and isinstance(value[0], Mapping) else [value]:
            if isinstance(each, Mapping):
                lines.append(f"{indent}{field} {{\n{text(each, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{field}: {_scalar(each)}\n")
    return "".join(lines)


def _scalar(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Symbol):
        return f'"{re.sub(_SPECIAL, _escaped, value)}"'
    return str(value)


_SPECIAL = re.compile(r'[\x00-\x1f\x7f"\\]')


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in '"\\' else f"\\{ord(found[0]):03o}"


def _require_free(folder: Path, *, force: bool) -> None:
    """Raises UserError where there is something that this command did not write, or did and `force` is not given."""
    if not (folder.exists() or folder.is_symlink()):
        return
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(found - {_CONFIG, _LABELS, _MODEL})
    if folder.is_symlink() or not _is_ours(folder / _CONFIG) or foreign:
        what = f"it also holds {foreign[0]}" if foreign else "this command did not write it"
        raise UserError(f"{folder} is in the way: {what}", "move it away, or give another OUT or --name")
    if not force:
        raise UserError(f"{folder} is there already", "give --force to have it replaced, or another OUT or --name")


def _is_ours(config_file: Path) -> bool:
    return config_file.is_file() and config_file.read_bytes().startswith(_SIGN.encode())
