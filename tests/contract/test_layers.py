"""The house: imports run one way, heavy ones are paid only where they are used, importing does nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.closure import ROOT, closure, foreign, imported, module_file

SOURCE = ROOT / "src" / "transferline"
LAYERS = ["foundation", "data", "model", "training", "evaluation", "deploy", "tracking", "pyfunc", "pipeline"]
ALLOWED = {
    "foundation": {"foundation"},
    "data": {"foundation", "data"},
    "model": {"foundation", "data", "model"},
    "training": {"foundation", "data", "model", "training"},
    "evaluation": {"foundation", "data", "model", "evaluation"},
    "deploy": {"foundation", "data", "model", "evaluation", "deploy"},
    "tracking": {"foundation", "tracking"},
    "pyfunc": {"foundation", "data", "deploy", "pyfunc"},
    "pipeline": set(LAYERS),
}
FILES = sorted([*SOURCE.rglob("*.py"), *(ROOT / "pipeline").glob("*.py")])
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "pytorch_lightning",
    "torchmetrics",
    "mlflow",
    "optuna",
    "sklearn",
    "scipy",
    "cleanlab",
}


def layer(file: Path) -> str:
    if file.is_relative_to(ROOT / "pipeline"):
        return "pipeline"
    parts = file.relative_to(SOURCE).parts
    return parts[0] if parts[0] in LAYERS else "foundation"


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_run_one_way(file: Path) -> None:
    reached = {layer(target) for name in imported(file) if (target := module_file(name))} - {"foundation"}
    own = layer(file)
    assert reached <= ALLOWED[own], f"{own} may not import {sorted(reached - ALLOWED[own])}"


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("mlflow", {"tracking", "pyfunc"}),
        ("optuna", {"training"}),
        ("pytorch_lightning", {"training"}),
        ("sklearn", {"evaluation", "model"}),
        ("cleanlab", {"evaluation"}),
        ("onnxruntime", {"deploy", "model"}),
        ("uvicorn", {"deploy"}),
        ("prometheus_client", {"deploy"}),
    ],
)
def test_each_library_has_its_room(package: str, rooms: set[str]) -> None:
    users = {layer(file) for file in FILES if package in {name.split(".")[0] for name in imported(file)}}
    assert users == rooms


@pytest.mark.parametrize(
    "file", [*sorted((SOURCE / "evaluation").glob("*.py")), SOURCE / "deploy" / "parity.py"], ids=name_of
)
def test_verdicts_need_no_torch(file: Path) -> None:
    assert not foreign(file) & {"torch", "torchvision", "pytorch_lightning"}


@pytest.mark.parametrize("stage", sorted((ROOT / "pipeline").glob("*.py")), ids=name_of)
def test_a_stage_says_what_it_does_before_it_pays_for_heavy_imports(stage: Path) -> None:
    assert not foreign(stage) & HEAVY


def test_prepare_never_needs_torch() -> None:
    reached = {name.split(".")[0] for file in closure(ROOT / "pipeline" / "prepare.py") for name in imported(file)}
    assert "numpy" in reached
    assert "torch" not in reached


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)


DEPLOYED = {"torch", "mlflow", "pytorch_lightning", "sklearn", "pandas", "pyarrow"}
SERVED = DEPLOYED | {"scipy", "matplotlib"}
COMMANDS = {"fastapi", "uvicorn", "prometheus_client", "onnxruntime", "pydantic"}


@pytest.mark.parametrize(
    ("modules", "unpaid"),
    [
        (["predictor", "cli"], DEPLOYED),
        (["serve.app", "serve.command", "serve.server"], SERVED),
        (["cli"], COMMANDS),
    ],
    ids=["the predictor", "a service", "the command line"],
)
def test_what_is_deployed_pays_for_what_it_uses_alone(modules: list[str], unpaid: set[str], tmp_path: Path) -> None:
    names = ", ".join(f"transferline.deploy.{module}" for module in modules)
    done = python(f"import sys, {names}; paid = {unpaid} & set(sys.modules); assert not paid, paid", tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_does_nothing(tmp_path: Path) -> None:
    modules = [
        name_of(file).removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in FILES
    ]
    code = (
        "import importlib, logging, os, signal\n"
        "before = dict(os.environ), logging.root.handlers[:], signal.getsignal(signal.SIGTERM)\n"
        f"for name in {[name for name in modules if name.startswith('transferline') and '.training' not in name]}:\n"
        "    importlib.import_module(name)\n"
        "ours = {key: value for key, value in os.environ.items() if before[0].get(key) != value and 'MLFLOW' in key}\n"
        "assert not ours, ours\n"
        "assert (logging.root.handlers, signal.getsignal(signal.SIGTERM)) == before[1:]\n"
    )
    done = python(code, tmp_path, PYTHONWARNINGS="default")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
