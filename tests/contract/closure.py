"""What a script imports of our own code, transitively, as files; from the syntax alone."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"transferline": ROOT / "src" / "transferline", "pipeline": ROOT / "pipeline"}


def module_file(name: str) -> Path | None:
    """The file of a module of ours; None for anything else."""
    head, *rest = name.split(".")
    if head not in PACKAGES:
        return None
    base = PACKAGES[head].joinpath(*rest)
    if (base / "__init__.py").is_file():
        return base / "__init__.py"
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else None


def imported(file: Path, *, on_import: bool = False) -> set[str]:
    """Dotted names that a file imports; with `on_import`, those outside functions and TYPE_CHECKING alone."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if on_import and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _type_checking(node)):
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def closure(file: Path, *, on_import: bool = False) -> set[Path]:
    """Files of ours that `file` needs, itself and the packages on the way included."""
    found: set[Path] = set()
    pending = [file]
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found.add(current)
        for name in imported(current, on_import=on_import):
            parts = name.split(".")
            prefixes = (module_file(".".join(parts[: end + 1])) for end in range(len(parts)))
            pending.extend(prefix for prefix in prefixes if prefix)
    return found


def foreign(file: Path) -> set[str]:
    """Top-level names of the packages of others that importing `file` pays for, transitively."""
    return {
        name.split(".")[0]
        for member in closure(file, on_import=True)
        for name in imported(member, on_import=True)
        if name.split(".")[0] not in PACKAGES
    }
