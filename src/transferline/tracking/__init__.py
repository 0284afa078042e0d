"""The only importer of mlflow: runs, lineage and the model registry. Called by pipeline/ alone.

Nothing is imported from mlflow and no store is opened before a stage begins.
"""

from transferline.tracking.process import git_commit
from transferline.tracking.registry import ModelVersion, champion, register_model, set_alias
from transferline.tracking.runs import StageRun, stage
from transferline.tracking.store import address, kept, send_kept

__all__ = [
    "ModelVersion",
    "StageRun",
    "address",
    "champion",
    "git_commit",
    "kept",
    "register_model",
    "send_kept",
    "set_alias",
    "stage",
]
