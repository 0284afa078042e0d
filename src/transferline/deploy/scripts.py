"""The project's own scripts, which commands run: mlflow and Lightning are theirs alone."""

from pathlib import Path

from transferline.errors import UserError


def script(name: str) -> Path:
    """`pipeline/<name>.py` of the project in the folder one is in. Raises UserError where that is no project."""
    found = Path("pipeline", f"{name}.py")
    if not (found.is_file() and Path("params.yaml").is_file()):
        what = f"{Path.cwd()} is no Transferline project: it lacks params.yaml or {found}"
        raise UserError(what, "change to the root of the project")
    return found
