"""Where every file that passes between stages lies."""

import os
from pathlib import Path
from typing import Literal, get_args

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

# Paths are relative to the root of the project, where DVC runs every stage.
SAMPLE = Path("data/sample")
MANIFEST = Path("data/prepared/manifest.parquet")
QUARANTINE = Path("data/prepared/quarantine.csv")
LEAKAGE = Path("reports/prepare/leakage.json")
ARRAYS = Path("data/augmented")
# What tune, train and finetune may see of the arrays: never the test split.
TRAINING = (ARRAYS / "train", ARRAYS / "val", ARRAYS / "classes.json")
BEST = Path("models/tune/best.json")
PROBE = Path("models/tune/probe.json")
PLAN = Path("models/tune/plan.json")
WINNER = Path("models/tune/winner.safetensors")
HEAD = Path("models/head")
FINETUNED = Path("models/finetuned")
HELD_OUT = FINETUNED / "held_out.npy"
CHOICE = FINETUNED / "choice.json"
METRICS = Path("reports/evaluate/metrics.json")
PREDICTIONS = Path("reports/evaluate/predictions.parquet")
ONNX = Path("models/onnx/model.onnx")
PARITY = Path("reports/export/parity.json")
VERDICT = Path("reports/register/verdict.json")
RUNS = Path("runs")
REPORTS = Path("reports")
COMPARED = Path("reports/compare")
LR_FOUND = Path("reports/lr_find")
# What later stages read, by the stage that writes it; of images, prepare's manifest has the hashes.
PRODUCED = {
    "prepare": (MANIFEST, REPORTS / "prepare" / "leakage.json"),
    "augment": (ARRAYS,),
    "tune": (BEST, PROBE, PLAN, WINNER),
    "train": (HEAD,),
    "finetune": (FINETUNED,),
    "evaluate": (METRICS, PREDICTIONS),
    "export": (ONNX, PARITY),
}


def project_root() -> Path:
    """The repository's root: DVC_ROOT in a queued experiment, which runs in a copy, else here."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
