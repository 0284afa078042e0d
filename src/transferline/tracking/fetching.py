"""A registered version's ONNX file, out of the registry and into a folder."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transferline import artifacts, seal
from transferline.errors import UserError, nearest
from transferline.tracking import reach, store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_FILE = "model.onnx"  # of the flavour `onnx`, as MLflow names it
_FOLDER = Path(".cache/models")
_ONE = "'dvc repro' registers one; or name another store in MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Fetched:
    path: Path
    version: str


def fetch(name: str, which: str, report: Callable[[str], object]) -> Fetched:
    """Bring a version's file into `.cache/models/NAME/VERSION`, unless it is there already.

    Args:
        name: of the registered model.
        which: `@alias` or a version.
        report: given a line before a file is downloaded.

    Raises:
        UserError: where the store is away, there is no such model or version, or its file is missing or damaged.
    """
    client = store.connect()
    found = _found(client, name, which)
    path = artifacts.project_root() / _FOLDER / name / str(found.version) / _FILE
    # A version does not change, but another store, or one begun anew, has others under the same numbers.
    if not path.is_file() or artifacts.sha256(path) != found.tags.get("onnx_sha256"):
        report(f"downloading version {found.version} of {name}")
        _download(client, found, path)
    return Fetched(path, str(found.version))


def _found(client: "MlflowClient", name: str, which: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        if which.startswith("@"):
            return client.get_model_version_by_alias(name, which[1:])
        return client.get_model_version(name, which)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
    raise _missing(client, name, which)


def _missing(client: "MlflowClient", name: str, which: str) -> UserError:
    """What there is instead."""
    models = {model.name: model for model in client.search_registered_models()}
    where = f"the registry of MLflow at {store.address()}"
    if name not in models:
        return UserError(f"{where} has no model '{name}'", nearest(name, models) if models else _ONE)
    if which.startswith("@"):
        aliases = models[name].aliases
        held = nearest(which[1:], aliases) if aliases else "none has an alias yet: one that passes the gate gets it"
        return UserError(f"no version of '{name}' holds the alias '{which[1:]}' in {where}", held)
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name='{name}'"))
    there = f"there are: {', '.join(map(str, versions[-20:]))}" if versions else _ONE
    return UserError(f"{where} has no version {which} of '{name}'", there)


def _download(client: "MlflowClient", found: "ModelVersion", path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    source = posixpath.join(client.get_model_version_download_uri(found.name, found.version), _FILE)
    what = f"version {found.version} of '{found.name}' cannot be fetched from MLflow at {store.address()}"
    with artifacts.atomic(path.parent) as partial:
        try:
            download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=store.uri())
        except Exception as error:  # an artifact store's own have no other base class
            fix = "see to it that its artifacts are there, or give another version"
            raise UserError(f"{what}: {reach.reason(error)}", fix) from None
        if not (partial / _FILE).is_file() or not seal.intact(partial / _FILE):
            raise UserError(f"{what}: it is damaged", "register it again with 'dvc repro --force register'")
