"""Whether a file can be run at all: a graph may crash onnxruntime, and with it the process that opens it."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from transferline.deploy.predictor import Predictor
from transferline.errors import UserError


def require(path: Path) -> None:
    """Open an exported file, and run one image, in a process of its own.

    Errors that can be caught are left to whoever opens the file next.

    Raises:
        UserError: where that process dies.
    """
    command = [sys.executable, "-m", __name__, str(path)]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    if code not in (0, 1):
        raise UserError(f"{path} crashes onnxruntime (exit code {code})", "it is to be computed by another engine")


if __name__ == "__main__":
    Predictor(Path(sys.argv[1])).predict(np.zeros((1, 32, 32, 3), np.uint8))
