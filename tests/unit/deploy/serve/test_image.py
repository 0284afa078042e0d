"""What the Dockerfile says, tried as far as it goes without a container: its packages, its command, its check."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.contract.closure import ROOT

from .conftest import encoded

HEAVY = ("torch", "mlflow", "nvidia", "cuda", "triton", "timm", "scipy", "pandas", "pyarrow", "dvc", "optuna", "onnx")
# In a process with only what a list of packages brings: everything else is as if it were not installed.
ALONE = """
import json, sys
allowed = set(json.loads(sys.argv.pop(1))) | sys.stdlib_module_names | {"transferline"}
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
assert not set(json.loads(sys.argv.pop(1))) & {name.partition(".")[0] for name in sys.modules}
from transferline.deploy.cli import app
app()
"""


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: keyword and the rest, with continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = re.sub(r"\\\n\s*", "", "\n".join(line for line in lines if not line.startswith("#")))
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line]
    return [(keyword, rest) for keyword, rest in pairs]


def final() -> dict[str, str]:
    """The instructions of the last stage; of a repeated one, the last."""
    found = instructions()
    start = max(index for index, (keyword, _) in enumerate(found) if keyword == "FROM")
    return dict(found[start:])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of what is installed in the image, by the Dockerfile's own command."""
    (command,) = [found[0] for _, rest in instructions() if (found := re.findall(r"uv export[^&]*", rest))]
    target = tmp_path_factory.mktemp("image") / "requirements.txt"
    given = [target if word == "requirements.txt" else word for word in command.split()]
    subprocess.run([*given, "--offline", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=True)
    text = target.read_text(encoding="utf-8")
    pinned = re.findall(r"^([\w.-]+)==[^\s;]+(?: ; .*?)? \\\n    --hash=sha256:", text, flags=re.MULTILINE)
    assert pinned == re.findall(r"^([\w.-]+)", text, flags=re.MULTILINE), "each with its version and hash"
    return pinned


def test_it_is_pinned_and_light(packages: list[str]) -> None:
    assert {"fastapi", "uvicorn", "onnxruntime", "numpy", "pillow"} <= set(packages)
    assert [name for name in packages if name.startswith(HEAVY) and name != "onnxruntime"] == []


def test_it_serves_and_stops_with_these_packages_alone(packages: list[str], line, predictor, tmp_path: Path) -> None:
    image = encoded()
    process = started(packages, line.model, tmp_path)
    assert process.stdout is not None
    try:
        address = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert address, process.communicate(timeout=60)
        headers = {"content-type": "image/png"}
        answer = httpx.post(f"{address[0]}/predict", content=image, headers=headers, timeout=60)
        (prediction,) = answer.json()["predictions"]
        assert checked(address[1]) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    expected = dict(zip(predictor.classes, predictor.predict_file(image).tolist(), strict=True))
    assert set(prediction["probabilities"]) == set(expected)
    np.testing.assert_allclose(
        [prediction["probabilities"][name] for name in expected], [*expected.values()], atol=1e-6
    )
    assert process.returncode == 0
    assert checked(address[1]) != 0


def started(packages: list[str], model: Path, folder: Path) -> subprocess.Popen[str]:
    """The Dockerfile's command, at a free port of this machine alone."""
    here = {"onnxruntime": {"onnxruntime", "onnxruntime-gpu"}}  # with CUDA, it is another package of the same module
    installed = {name.lower().replace("_", "-") for each in packages for name in here.get(each, {each})}
    by_module = packages_distributions()
    allowed = {
        module for module, names in by_module.items() if installed & {name.lower().replace("_", "-") for name in names}
    }
    assert {"onnxruntime", "fastapi", "PIL"} <= allowed
    forbidden = set(by_module) - allowed - {"transferline"}
    command = [str(model) if word == "/model/model.onnx" else word for word in entrypoint()[1:]]
    command[command.index("--port") + 1], command[command.index("--host") + 1] = "0", "127.0.0.1"
    code = [sys.executable, "-c", ALONE, json.dumps(sorted(allowed)), json.dumps(["torch", "mlflow", "pyarrow"])]
    assert {"torch", "mlflow", "pyarrow"} <= forbidden
    return subprocess.Popen([*code, *command], cwd=folder, stdout=subprocess.PIPE, text=True)


def entrypoint() -> list[str]:
    return [*json.loads(final()["ENTRYPOINT"]), *json.loads(final()["CMD"])]


def checked(port: str) -> int:
    """The exit code of the health check, asked of a port of this machine."""
    _, found = final()["HEALTHCHECK"].split("CMD ", maxsplit=1)
    program, *rest = json.loads(found)
    assert program == "python"
    command = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in rest)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def test_signals_arrive_and_no_right_is_more_than_needed() -> None:
    stage = final()
    assert stage["FROM"].startswith("python:3.11-slim")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"]), (
        "a number: Kubernetes cannot tell else that it is not root"
    )
    assert entrypoint()[:2] == ["transferline", "serve"], "no shell between, which would keep SIGTERM to itself"
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["EXPOSE"] == entrypoint()[entrypoint().index("--port") + 1]
    assert f":{stage['EXPOSE']}/" in stage["HEALTHCHECK"]
    assert (Path(sysconfig.get_path("scripts")) / "transferline").is_file()


def test_the_builder_is_sent_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = [rest.split()[:-1] for keyword, rest in instructions() if keyword == "COPY" and "--from" not in rest]
    names = sorted({name for group in copied for name in group})
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == names
    assert [name for name in names if not (ROOT / name).exists()] == []
