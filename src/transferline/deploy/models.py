"""What a command is given as its model: a file, or a version in MLflow's registry, which becomes a file."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from transferline.deploy.scripts import script
from transferline.errors import UserError

_SCHEME = "models:/"
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(?P<which>@[^/@]+|/[1-9][0-9]*)")
_FORMS = "models:/NAME@ALIAS, as models:/transferline@champion, or models:/NAME/VERSION, as models:/transferline/3"


def located(model: str) -> Path:
    """The path of an ONNX file: as given, or of a registered version, which is fetched into `.cache/models` once.

    MLflow takes hundreds of megabytes and seconds, so that `pipeline/model.py` asks it in a process of its own;
    what that prints appears on stderr meanwhile.

    Args:
        model: a path, or one of _FORMS; the registry is that of MLFLOW_TRACKING_URI, or else the project's.

    Raises:
        UserError: where it is another address, the folder is no project, or the script's own: MLflow does not
            answer, or has no such model, alias or version.
    """
    if not model.startswith(_SCHEME):
        if "://" in model or model.startswith(("runs:/", "models:")):
            raise UserError(f"{model} is no model that can be fetched", f"give a file, or {_FORMS}")
        return Path(model)
    if not _VERSION.fullmatch(model):
        raise UserError(f"{model} names no version of a model", f"give {_FORMS}")
    said = _run(model.removeprefix(_SCHEME))
    return Path(said.rpartition(" -> ")[2])


def _run(version: str) -> str:
    """The last line that the script prints."""
    line, command = "", [sys.executable, "-m", f"pipeline.{script('model').stem}", version]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as process:
            assert process.stdout is not None
            for text in process.stdout:
                line = text.rstrip("\n")
                print(line, file=sys.stderr, flush=True)
        errors.seek(0)
        trouble = errors.read()
    if process.returncode:
        raise _failure(process.returncode, trouble)
    return line


def _failure(code: int, trouble: str) -> Exception:
    """What `errors.run` printed last, as the error that it was."""
    _, found, message = f"\n{trouble}".rpartition("\nerror: ")
    if code == 1 and found:
        what, _, fix = message.strip().partition("\n  ")
        return UserError(what, fix)
    return RuntimeError(f"pipeline/model.py ended with {code}:\n{trouble}")
