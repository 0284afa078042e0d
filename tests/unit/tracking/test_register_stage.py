"""The register stage, run whole on a tiny model."""

import json
import runpy
from pathlib import Path

import pytest

from transferline import artifacts

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

PARITY = {
    "passed": True,
    "images": 1,
    "max_difference": 1e-6,
    "mismatches": [],
    "variant": "fp32",
    "agreeing": 1,
    "accuracy": 1.0,
    "macro_f1": 1.0,
    "evaluate_accuracy": 1.0,
    "evaluate_macro_f1": 1.0,
    "max_loss": 0.01,
}
SCRIPT = Path(__file__).parents[3] / "pipeline" / "register.py"


def register(project, macro_f1: float, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    """The verdict and the last line printed."""
    names = f"{{experiment: {project.experiment}, registered_model: {project.experiment}}}"
    Path("params.yaml").write_text(f"tracking: {names}\nregister: {{min_macro_f1: 0.9}}\n")
    artifacts.write_json(artifacts.METRICS, {"macro_f1": macro_f1, "ece_calibrated": 0.01})
    artifacts.write_json(artifacts.PARITY, PARITY)
    artifacts.write_manifest([artifacts.ManifestRow("cat/a.png", "cat", "test", "0" * 64, "0" * 16, 0, 8, 8)])
    runpy.run_path(str(SCRIPT))["main"]()
    return json.loads(artifacts.VERDICT.read_text()), capsys.readouterr().out.splitlines()[-1]


def test_alias_moves_only_to_what_passes_and_a_refusal_is_a_verdict(project, capsys, tiny_classifier):
    artifacts.ONNX.parent.mkdir(parents=True)
    tiny_classifier(artifacts.ONNX)
    name = project.experiment

    verdict, line = register(project, 0.95, capsys)
    assert (verdict["passed"], verdict["version"], verdict["champion_version"]) == (True, "1", "1")
    assert line == f"register: {name} version 1 (fp32) is champion -> reports/register/verdict.json"

    verdict, line = register(project, 0.94, capsys)
    reason = "Macro-F1 on test is 0.9400, worse than the 0.9500 of version 1."
    assert (verdict["passed"], verdict["version"], verdict["champion_version"]) == (False, "2", "1")
    assert verdict["reasons"] == [reason]
    assert line == f"register: {name} version 2 (fp32) is refused: {reason} -> reports/register/verdict.json"

    record = artifacts.read_run("register")
    assert record is not None
    assert project.run(record.run_id).info.status == "FINISHED"
    assert project.artifact(record.run_id, "reports/register/verdict.json").exists()
