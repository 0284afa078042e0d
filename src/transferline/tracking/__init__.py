"""The only importer of mlflow: runs, lineage and the model registry. Called by pipeline/ alone.

Nothing is imported from mlflow and no store is opened before a stage begins.
"""

from transferline.tracking.process import git_commit
from transferline.tracking.registry import ModelVersion, champion, register_model, set_alias
from transferline.tracking.runs import StageRun, stage

__all__ = ["ModelVersion", "StageRun", "champion", "git_commit", "register_model", "set_alias", "stage"]
