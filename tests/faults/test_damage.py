"""Files cut short, emptied, overwritten or with a bit flipped: one message that names the file, or what was written."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.unit.deploy.conftest import make_card, make_deployed
from transferline import artifacts, seal
from transferline.artifacts import Arrays, Best, Candidate, Choice, ManifestRow, ModelCard, Predictions, RunRecord
from transferline.deploy import export
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.model import classifier, stored
from transferline.model.stored import Entry, Writer, open_entry
from transferline.policy import Blur
from transferline.tracking import flavours

ROUNDS = 60
CLASSES = ["blau", "grün", "rot"]


class Case(NamedTuple):
    """A file, how it is read, and whether every change of a value is noticed."""

    file: str
    read: Callable[[Path], Any]
    rounds: int = ROUNDS
    checked: bool = False


def _arrays(root: Path) -> Any:
    read = artifacts.read_arrays("train", root / "arrays")
    return read.images.tobytes(), read.images.shape, read.labels.tolist(), read.paths, read.classes, read.online


def _predictions(root: Path) -> Any:
    read = artifacts.read_predictions(root / "predictions.parquet")
    return read.paths, read.labels, read.predicted, read.probabilities.tolist(), read.classes


def _held_out(root: Path) -> Any:
    val = Arrays(np.zeros((6, 1, 8, 8, 3), np.uint8), np.arange(6) % 3, [f"{n}.png" for n in range(6)], CLASSES)
    return artifacts.read_held_out(val, root / "held_out.npy").tobytes()


def _metrics(root: Path) -> Any:
    return artifacts.read_metrics("macro_f1", "ece_calibrated", "temperature", path=root / "metrics.json")


def _weights(root: Path) -> Any:
    net, card = classifier.load(root / "head")
    return card, {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}


def _predicted(root: Path) -> Any:
    predictor = Predictor(root / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    return predictor.classes, predictor.predict(pixels).tolist()


CASES = [
    Case("manifest.parquet", lambda root: artifacts.read_manifest(root / "manifest.parquet"), checked=True),
    Case("predictions.parquet", _predictions, checked=True),
    Case("arrays/train/index.parquet", _arrays, checked=True),
    Case("arrays/train/images.npy", _arrays),
    Case("arrays/train/labels.npy", _arrays),
    Case("arrays/train/online.json", _arrays),
    Case("arrays/classes.json", _arrays),
    Case("best.json", lambda root: artifacts.read_best(root / "best.json")),
    Case("held_out.npy", _held_out),
    Case("choice.json", lambda root: artifacts.read_choice(root / "choice.json")),
    Case("metrics.json", _metrics),
    Case("parity.json", lambda root: artifacts.read_parity(root / "parity.json")),
    Case("tune.json", lambda root: artifacts.read_run("tune", root)),
    Case("head/model.json", lambda root: artifacts.read_card(root / "head")),
    Case("head/model.safetensors", _weights, rounds=20),
    Case("model.onnx", _predicted, checked=True),
    Case("model.onnx", lambda root: flavours.load(root / "model.onnx").SerializeToString(), checked=True),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each."""
    root = tmp_path_factory.mktemp("written")
    rows = [ManifestRow(f"a/{n}.png", "a", "train", f"{n:064d}", "0" * 16, n, 50, 40) for n in range(40)]
    artifacts.write_manifest(rows, root / "manifest.parquet")
    stated = np.random.default_rng(0).dirichlet(np.ones(3), 6).astype(np.float32)
    given = Predictions([f"{n}.png" for n in range(6)], ["rot"] * 6, ["blau"] * 6, stated, CLASSES)
    artifacts.write_predictions(given, root / "predictions.parquet")
    train = root / "arrays" / "train"
    artifacts.write_array(train / "images.npy", np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 1, 8, 8, 3))
    artifacts.write_array(train / "labels.npy", np.arange(6) % 3)
    artifacts.write_table(train / "index.parquet", {"row": list(range(6)), "path": [f"{n}.png" for n in range(6)]})
    artifacts.write_online([Blur(name="blur")], train)
    artifacts.write_json(root / "arrays" / "classes.json", CLASSES)
    artifacts.write_best(Best(1e-3, 32, 3, 0.9, "study", "run", {"ema": 0.99}), root / "best.json")
    artifacts.write_held_out(np.arange(18, dtype=np.float32).reshape(6, 3), root / "held_out.npy")
    candidates = [Candidate("probe", 0.5, 0.8, 0.7, 0.1, 0.05), Candidate("blau", 0.4, 0.9, 0.8, 0.0, 0.0)]
    artifacts.write_choice(Choice(candidates, "blau", "Its loss is lower.", refit=True), root / "choice.json")
    figures = {"macro_f1": 0.9, "ece_calibrated": 0.1, "temperature": 1.5, "thresholds": {"blau": 0.5}}
    artifacts.write_json(root / "metrics.json", figures)
    verdict = {
        "passed": True,
        "images": 6,
        "max_difference": 1e-6,
        "mismatches": [{"path": "0.png"}],
        "variant": "fp32",
        "agreeing": 6,
        "accuracy": 0.9,
        "macro_f1": 0.9,
        "evaluate_accuracy": 0.9,
        "evaluate_macro_f1": 0.9,
        "max_loss": 0.01,
    }
    artifacts.write_json(root / "parity.json", verdict)
    artifacts.write_run(RunRecord("tune", "run", "parent", {"a": "0" * 64}), root)
    card = ModelCard("mobilenet_v3_small", CLASSES, 32, "squash", [0.5] * 3, [0.5] * 3, 0.1)
    classifier.save(classifier.build(card, "none", seed=0), card, root / "head")
    about = export.metadata(make_card(), 1.7, export.Lineage("c0ffee", "5ha", "run"))
    export.write_onnx(make_deployed(), root / "model.onnx", 20, about)
    return root


def damaged(good: bytes, seed: int) -> Iterator[bytes]:
    """Without end: cut short, a bit flipped, some bytes overwritten, a block of zeros as after a loss of power.

    Half of them in the first 4 KB, where headers are; the first is empty.
    """
    rng = np.random.default_rng(seed)
    yield b""
    while True:
        data = bytearray(good)
        start = int(rng.integers(min(len(data), rng.choice((4096, len(data))))))
        match int(rng.integers(4)):
            case 0:
                del data[start:]
            case 1:
                data[start] ^= 1 << int(rng.integers(8))
            case 2:
                end = min(len(data), start + int(rng.integers(1, 64)))
                data[start:end] = rng.bytes(end - start)
            case _:
                end = min(len(data), start + 512)
                data[start:end] = bytes(end - start)
        yield bytes(data)


@contextlib.contextmanager
def overwritten(path: Path) -> Iterator[bytes]:
    """Its bytes, which it has again at the end."""
    good = path.read_bytes()
    try:
        yield good
    finally:
        path.write_bytes(good)


def _read(case: Case, root: Path) -> tuple[UserError | None, Any]:
    try:
        return None, case.read(root)
    except UserError as error:
        return error, None


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.file for case in CASES])
def test_a_damaged_file_is_named_or_read_as_it_was(number: int, written: Path) -> None:
    case, told = CASES[number], 0
    path, value = written / case.file, case.read(written)
    with overwritten(path) as good:
        for _, data in zip(range(case.rounds), damaged(good, number), strict=False):
            path.write_bytes(data)
            said, read = _read(case, written)
            told += said is not None
            assert said or not case.checked or read == value
            if said:
                assert str(path) in said.what or f"{path.parent}: images, labels" in said.what
                assert "delete it" in said.fix
        path.unlink()
        if case.file != "tune.json" and case.file != "arrays/train/online.json":  # which need not be there
            with pytest.raises(UserError, match=r"is missing\n.*'dvc repro'"):
                case.read(written)
    assert told >= case.rounds // 5
    assert case.read(written) == value


@pytest.mark.parametrize("name", ["entry.json", "activations.npy"])
def test_damaged_activations_are_taken_away(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).random((4, 3, 5)).astype(np.float32)
    place, whole = tmp_path / "depth_01", []
    for seed in range(30):
        with Writer(place, Entry(1, "float16", (4, 1, 3, 5))) as writer:
            writer.write(values)
            writer.finish("torch")
        whole = whole or [open_entry(place).values.tobytes()]
        data = next(islice(damaged((place / name).read_bytes(), seed), seed % 3, None))
        (place / name).write_bytes(data)
        found = open_entry(place)
        assert found is None or (name, found.values.tobytes()) == ("entry.json", whole[0])
        assert place.exists() == (found is not None)
        shutil.rmtree(place, ignore_errors=True)
    assert "is damaged: it is computed again" in capsys.readouterr().out
    assert stored.entries(tmp_path.parent) == []


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "copy"])
def test_dvc_is_made_to_see_the_damage_in_its_cache_too(kind: str, tmp_path: Path) -> None:
    """It takes what is read-only in its cache for right: 'dvc repro' would link the damaged copy again."""
    path, cached = tmp_path / "data" / "a.json", tmp_path / ".dvc" / "cache" / "33d0"
    for file in (path, cached):
        artifacts.write_text(file, "{")
    if kind != "copy":
        path.unlink()
        (path.hardlink_to if kind == "hardlink" else path.symlink_to)(cached)
    cached.chmod(0o444)
    os.utime(cached, (1, 1))
    with pytest.raises(UserError) as caught:
        artifacts.read_json(path)
    assert caught.value.fix == "delete it, and 'dvc repro' makes it again"
    found = cached.stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o444, 1) if kind == "copy" else found.st_mode & 0o200
    assert (found.st_mtime == 1) == (kind == "copy")


def test_a_model_that_a_tool_wrote_anew_is_not_taken_for_damaged(written: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(written / "model.onnx")
    onnx.save(model, tmp_path / "same.onnx")
    assert seal.intact(tmp_path / "same.onnx")
    model.metadata_props.add(key="note", value="mine")
    onnx.save(model, tmp_path / "noted.onnx")
    assert Predictor(tmp_path / "noted.onnx").metadata["note"] == "mine"
    kept = [entry for entry in model.metadata_props if entry.key != seal.KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "never.onnx")
    assert Predictor(tmp_path / "never.onnx").classes == CLASSES
