"""The whole line on small images: what it leaves, what it reruns, what MLflow shows."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.clones import contents
from tests.contract.test_dvc import ORDER
from tests.line.conftest import CLASSES, SMALL, make_images
from tests.project import Project, begin, ran, set_params
from transferline.artifacts import read_manifest, read_predictions


def report(project: Project, path: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((project.root / path).read_text(encoding="utf-8"))
    return content


def query(project: Project, sql: str, *values: object) -> list[tuple[str, ...]]:
    with sqlite3.connect(project.root / "mlruns" / "mlflow.db") as database:
        return database.execute(sql, values).fetchall()


RUNS = """
    select stage.value, runs.name, runs.status, parent.value, runs.run_uuid from runs
    left join tags stage on stage.run_uuid = runs.run_uuid and stage.key = 'transferline.stage'
    left join tags parent on parent.run_uuid = runs.run_uuid and parent.key = 'mlflow.parentRunId'
    order by runs.start_time
"""


def test_every_stage_leaves_its_outputs(line: Project) -> None:
    for path in (
        "reports/prepare/samples.png",
        "reports/augment/preview.png",
        "reports/tune/trials.csv",
        "reports/tune/probe.png",
        "models/tune/best.json",
        "models/tune/probe.json",
        "models/tune/plan.json",
        "models/tune/winner.safetensors",
        "models/finetuned/choice.json",
        "reports/evaluate/report.html",
        "reports/export/latency.json",
        "reports/export/variants.png",
        "models/onnx/model.onnx",
    ):
        assert (line.root / path).stat().st_size > 0, path


def test_another_clone_makes_the_same(line: Project, tmp_path: Path) -> None:
    """In a folder of its own, on images made anew, without DVC, and with sets and names in another order."""
    other = begin(tmp_path, make_images, SMALL)
    for stage in ORDER:
        done = other.run(sys.executable, "-m", f"pipeline.{stage}", PYTHONHASHSEED="12345")
        assert done.returncode == 0, done.stderr
    expected, found = contents(line.root), contents(other.root)
    assert len(expected) > 30
    assert {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)} == set()


def test_the_broken_file_is_quarantined(line: Project) -> None:
    assert "red/broken.jpg" in (line.root / "data/prepared/quarantine.csv").read_text(encoding="utf-8")


def test_the_exported_model_does_what_evaluate_reported(line: Project) -> None:
    parity = report(line, "reports/export/parity.json")
    tested = [row for row in read_manifest(line.root / "data/prepared/manifest.parquet") if row.split == "test"]
    predictions = read_predictions(line.root / "reports/evaluate/predictions.parquet")
    assert parity["passed"]
    assert parity["images"] == len(tested) == len(predictions.paths)
    properties = {entry.key: entry.value for entry in onnx.load(line.root / "models/onnx/model.onnx").metadata_props}
    assert json.loads(properties["classes"]) == predictions.classes == list(CLASSES)
    assert properties["mlflow_run_id"] == report(line, "runs/export.json")["run_id"]


def test_evaluate_says_what_fine_tuning_was_worth(line: Project) -> None:
    scores: dict[str, Any] = report(line, "reports/evaluate/metrics.json")
    for name in ("accuracy", "macro_f1"):
        assert scores["gain"][name]["difference"] == pytest.approx(scores[name] - scores["probe"][name])
    run = report(line, "runs/evaluate.json")["run_id"]
    logged = dict(query(line, "select key, value from metrics where key like '%_macro_f1%' and run_uuid = ?", run))
    assert logged["probe_macro_f1"] == scores["probe"]["macro_f1"]
    assert logged["gain_macro_f1"] == scores["gain"]["macro_f1"]["difference"]
    assert {"gain_macro_f1_low", "gain_macro_f1_high"} <= logged.keys()


def variant_of(path: Path) -> str:
    return next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "variant")


def judged(project: Project) -> dict[str, dict[str, Any]]:
    """The verdict on each variant, by its name; the files are those of the ones that were kept."""
    written = json.loads((project.root / "reports/export/variants.json").read_text(encoding="utf-8"))
    verdicts = {row["name"]: row for row in written["variants"]}
    kept = {name for name, row in verdicts.items() if row["refused"] is None}
    names = {written["preferred"]: "model.onnx"}
    files = {name: project.root / "models/onnx" / names.get(name, f"model.{name}.onnx") for name in kept}
    assert {path.name for path in (project.root / "models/onnx").iterdir()} == {path.name for path in files.values()}
    for name, file in files.items():
        assert variant_of(file) == name
        assert verdicts[name]["bytes"] == file.stat().st_size
    return verdicts


def test_variants_are_made_and_judged_on_validation(line: Project) -> None:
    validation = [row for row in read_manifest(line.root / "data/prepared/manifest.parquet") if row.split == "val"]
    verdicts = judged(line)
    assert list(verdicts) == ["fp32", "fp16", "int8"]
    for verdict in verdicts.values():
        assert "could not be made" not in (verdict["refused"] or "")
        assert verdict["images"] == len(validation)
        assert {(row["provider"], row["batch_size"]) for row in verdict["timings"]} >= {("cpu", n) for n in (1, 8, 32)}
    assert verdicts["fp16"]["bytes"] < 0.6 * verdicts["fp32"]["bytes"]
    run = report(line, "runs/export.json")["run_id"]
    logged = dict(query(line, "select key, value from metrics where key like '%_kept' and run_uuid = ?", run))
    assert logged == {f"{name}_kept": float(verdict["refused"] is None) for name, verdict in verdicts.items()}


def test_the_gate_gave_its_verdict(line: Project) -> None:
    verdict = report(line, "reports/register/verdict.json")
    assert (verdict["passed"], verdict["champion_version"]) == (True, verdict["version"])


def test_one_parent_holds_every_stage_and_tune_its_probe_and_trials(line: Project) -> None:
    runs = query(line, RUNS)
    runs = runs[: 1 + [row[0] for row in runs].index(ORDER[-1])]  # later tests add runs of their own
    (parent,) = [row[4] for row in runs if row[3] is None]
    assert [row[0] for row in runs if row[3] == parent] == ORDER
    tune = next(row[4] for row in runs if row[0] == "tune")
    assert [row[1] for row in runs if row[3] == tune] == ["probe", "trial 000", "trial 001"]
    assert {row[2] for row in runs} == {"FINISHED"}


def test_a_second_repro_runs_nothing(line: Project) -> None:
    assert ran(line.dvc("repro")) == []


def test_metrics_and_plots_are_shown(line: Project) -> None:
    assert "macro_f1" in line.dvc("metrics", "show")
    assert "index.html" in line.dvc("plots", "show")


def test_predict_names_each_image_and_the_bad_one(line: Project) -> None:
    images = line.root.parent / "images" / "red"
    command = ["transferline", "predict", "models/onnx/model.onnx", str(images), "--json"]
    done = line.run(*command)
    answers = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert len(answers) == 14
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5) for answer in answers)


def test_a_touched_script_reruns_its_stage_alone(line: Project) -> None:
    with (line.root / "pipeline" / "augment.py").open("a", encoding="utf-8") as script:
        script.write("# touched\n")
    assert ran(line.dvc("repro")) == ["augment"]
    line.commit("Touch augment")


def test_an_experiment_on_export_reruns_export_and_register_alone(line: Project) -> None:
    assert ran(line.dvc("exp", "run", "--set-param", "export.batch_size=8")) == ["export", "register"]
    newest = [row for row in query(line, RUNS) if row[3] is None][-1][4]
    stages = {row[0]: row[1] for row in query(line, RUNS) if row[3] == newest}
    assert set(stages) == set(ORDER)
    assert [stage for stage in ORDER if "cached" not in stages[stage]] == ["export", "register"]
    line.git("checkout", "--", ".")


def test_the_smallest_variant_can_be_the_model(line: Project) -> None:
    changes = ("--set-param", "export.prefer=small", "--set-param", "export.max_loss=1.0")
    assert ran(line.dvc("exp", "run", *changes)) == ["export", "register"]
    verdicts, parity = judged(line), report(line, "reports/export/parity.json")
    smallest = min(verdicts, key=lambda name: verdicts[name]["bytes"])
    assert variant_of(line.root / "models/onnx/model.onnx") == parity["variant"] == smallest != "fp32"
    assert parity["reference_difference"] < 1e-3
    verdict = report(line, "reports/register/verdict.json")
    assert (verdict["passed"], verdict["variant"]) == (True, smallest)
    assert f"{parity['agreeing']} of {parity['images']} test images" in " ".join(map(str, verdict["reasons"]))
    tags = query(line, "select key, value from model_version_tags where version = ?", verdict["version"])
    assert ("variant", smallest) in tags
    line.git("checkout", "--", ".")


def test_a_queued_experiment_on_finetuning_starts_at_tune_and_logs_to_the_project(line: Project) -> None:
    before = len(query(line, RUNS))
    line.dvc("exp", "run", "--queue", "--name", "longer", "--set-param", "finetune.epochs=3")
    line.dvc("exp", "run", "--run-all")
    fresh = [row for row in query(line, RUNS)[before:] if "cached" not in row[1]]
    assert [row[0] for row in fresh if row[0]] == ORDER[ORDER.index("tune") :]
    assert {row[2] for row in fresh} == {"FINISHED"}
    assert "longer" in line.dvc("exp", "show", "--csv")


def test_a_changed_image_wakes_prepare(line: Project) -> None:
    image = line.root.parent / "images" / "blue" / "00.png"
    kept = image.read_bytes()
    image.write_bytes((image.parent / "02.png").read_bytes())
    try:
        assert "prepare" in line.dvc("status")
    finally:
        image.write_bytes(kept)


def test_a_mistake_in_params_stops_the_line_with_one_message(line: Project) -> None:
    path = Path(line.root / "params.yaml")
    kept = path.read_text(encoding="utf-8")
    set_params(path, {"register": {"max_ec": 0.2}})
    try:
        done = line.run(sys.executable, "-m", "pipeline.register")
    finally:
        path.write_text(kept, encoding="utf-8")
    assert done.returncode == 1
    assert "did you mean 'max_ece'?" in done.stderr
    assert "Traceback" not in done.stderr
