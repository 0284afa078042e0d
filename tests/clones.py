"""Two clones of one project, compared file by file."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from transferline import seal

MADE = ("data/prepared", "data/augmented", "models", "reports")
TIMED = {"reports/export/latency.json", "reports/export/variants.png"}  # are nothing but times, or show them


def onnx_without_ids(path: Path) -> bytes:
    """The whole graph with its weights and what it says of itself, ids aside."""
    model = onnx.load(path)
    ids = ("git_commit", "mlflow_run_id", seal.KEY)  # the last is the checksum of a file that holds the others
    kept = [entry for entry in model.metadata_props if entry.key not in ids]
    assert len(kept) == len(model.metadata_props) - len(ids)
    del model.metadata_props[:]
    model.metadata_props.extend(sorted(kept, key=lambda entry: entry.key))
    return model.SerializeToString(deterministic=True)


def json_without(*names: str) -> Callable[[Path], bytes]:
    def read(path: Path) -> bytes:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({name: value for name, value in content.items() if name not in names}).encode()

    return read


def variants_without_times(path: Path) -> bytes:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for variant in content["variants"]:
        variant.pop("timings", None)
    return json.dumps(content).encode()


# How a file is read that holds an id or a time beside what must be the same.
WITHOUT: Mapping[str, Callable[[Path], bytes]] = {
    "models/tune/best.json": json_without("run_id"),
    "reports/export/variants.json": variants_without_times,
}


def reader(name: str) -> Callable[[Path], bytes]:
    if name.startswith("models/onnx/"):
        return onnx_without_ids
    return WITHOUT.get(name, Path.read_bytes)


def contents(root: Path) -> dict[str, str]:
    """The digest of each file that the line has made below `root`, by its path."""
    files = [file for folder in MADE for file in sorted((root / folder).rglob("*")) if file.is_file()]
    files = [file for file in files if file.name != ".gitignore"]  # DVC's
    found = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        found[name] = "" if name in TIMED else hashlib.sha256(reader(name)(file)).hexdigest()
    return found
