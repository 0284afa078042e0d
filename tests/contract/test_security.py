"""What code must not do, whoever wrote the data: unpickle, evaluate, call a shell, write HTML unescaped."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.closure import ROOT

FILES = sorted(file for folder in ("src", "pipeline", "benchmarks", "docs") for file in (ROOT / folder).rglob("*.py"))
TEMPLATES = sorted((ROOT / "src").rglob("*.html"))
PICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle"}
BANNED = (PICKLERS | {"yaml"}) - {"pickle"}  # whose errors are caught
UNPICKLE = {"load", "loads", "open", "Unpickler"}
LOADERS = {"torch.load", "get_state_dict", "load_state_dict_from_url"}  # which unpickle, unless they are told not to
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
GUARDED = {"src/transferline/data/archives.py": {"pickle.Unpickler"}}  # which lets arrays of numbers through


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of names; what a call or an index gives is left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def is_true(call: ast.Call, name: str) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


def mistakes_of_call(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if (name in LOADERS or last in LOADERS) and not is_true(call, "weights_only"):
        yield f"{name} without weights_only=True"
    if is_true(call, "allow_pickle"):
        yield f"{name} with allow_pickle=True"
    if is_true(call, "shell") or name in SHELLS:
        yield f"{name} calls a shell"
    if isinstance(call.func, ast.Name) and name in {"eval", "exec", "compile", "__import__"}:
        yield f"{name}()"
    if last == "Environment" and not is_true(call, "autoescape"):
        yield f"{name} without autoescape=True"
    if last in {"Markup", "from_string"} or name in {"Template", "jinja2.Template"}:
        yield f"{name}: HTML that nothing escapes"
    if last == "YAML":
        given = [keyword.value for keyword in call.keywords if keyword.arg == "typ"] + call.args
        if not all(isinstance(value, ast.Constant) and value.value in {"rt", "safe"} for value in given):
            yield f"{name} of a type that makes objects"


def mistakes(source: str, allowed: frozenset[str] | set[str] = frozenset()) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += mistakes_of_call(node)
        elif isinstance(node, ast.Attribute) and node.attr in UNPICKLE:
            name = dotted(node)
            if name.partition(".")[0] in PICKLERS and name not in allowed:
                found.append(name)
        elif isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name in BANNED]
        elif isinstance(node, ast.ImportFrom) and node.module in PICKLERS | {"yaml"}:
            found.append(f"from {node.module} import")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_foreign_is_run(file: Path) -> None:
    allowed = GUARDED.get(file.relative_to(ROOT).as_posix(), set())
    assert mistakes(file.read_text(encoding="utf-8"), allowed) == []


BAD = [
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "weights.get_state_dict(progress=True)",
    "torch.hub.load_state_dict_from_url(url)",
    "np.load(path, allow_pickle=True)",
    "pickle.load(stream)",
    "x = pickle.loads",
    "class A(pickle.Unpickler): pass",
    "from pickle import load",
    "import joblib",
    "import yaml",
    "eval(text)",
    "exec(text)",
    "subprocess.run(command, shell=True)",
    "os.system(command)",
    "Environment(loader=loader)",
    "jinja2.Environment(autoescape=False)",
    "environment.from_string(text)",
    "Markup(text)",
    "YAML(typ='unsafe')",
]
GOOD = [
    "torch.load(path, map_location='cpu', weights_only=True)",
    "np.load(path, mmap_mode='r')",
    "try: f()\nexcept pickle.UnpicklingError: g()",
    "subprocess.run([command], shell=False)",
    "model.eval()",
    "Prefix(net).eval()",
    "Environment(loader=loader, autoescape=True)",
    "YAML()",
    "YAML(typ='safe')",
]


@pytest.mark.parametrize("source", BAD)
def test_what_it_looks_for_is_found(source: str) -> None:
    assert mistakes(source)


@pytest.mark.parametrize("source", GOOD)
def test_what_is_safe_is_let_through(source: str) -> None:
    assert mistakes(source) == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.name)
def test_templates_switch_escaping_off_nowhere(template: Path) -> None:
    source = template.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|<script|javascript:|\son\w+=", source)
    assert not re.search(r"=\s*\{\{", source), "an attribute without quotes can be left by a space"
