"""`timm/<name>`: any model of timm's, cut into blocks by its own feature metadata.

What is called in its `forward_features`, and in which order, is recorded on a run without weights. `feature_info` says
which of that are stages: containers that hold one are taken apart, and a stage begins a block. When the model is
built, its blocks are run against `forward_features`, so a model whose forward pass does more than call its parts one
after the other is refused.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from transferline.errors import UserError, nearest
from transferline.model import cuts, libraries
from transferline.model.pieces import TokensToMap, ToMap
from transferline.model.specs import Cut, Spec

_DIFFERENCE = 1e-4  # of the largest feature, between the blocks in order and forward_features
_TRANSFORMER = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "blocks", "norm")


class _UncutError(Exception):
    """Why a model cannot be cut, in a few words."""


@cache
def spec(name: str) -> Spec:
    """Of `timm/resnet10t` or, with the tag of its weights, `timm/resnet18.a1_in1k`.

    Raises:
        UserError: where timm has no such model, or it cannot be cut.
    """
    own = name.partition("/")[2]
    if own.partition(".")[0] not in timm.list_models():
        close = difflib.get_close_matches(own, timm.list_models(), n=1, cutoff=0.5)
        advice = nearest(own, close) if close else "`timm.list_models()` lists them all"
        raise UserError(f"params.yaml: model.backbone: timm has no model '{own}'", advice)
    with _refusing(name):
        model: Any = libraries.outline(partial(timm.create_model, own))
        published, options = model.pretrained_cfg, inspect.signature(type(model).__init__).parameters
        channels, *_, side = published["input_size"]
        if channels != 3:
            raise _UncutError(f"it takes images of {channels} channels")
        transformer = isinstance(model, timm.models.VisionTransformer)
        known = _of_transformer(model) if transformer else _of_calls(model, side)
        known["cut"] = _checked(name, cuts.ending(known["cut"], _as_map), side)
    return Spec(
        name=name,
        family="timm",
        library="timm",
        feature_dim=int(model.num_features),
        input_size=int(side),
        mean=tuple(published["mean"]),
        std=tuple(published["std"]),
        library_name=own,
        any_size=transformer or not published.get("fixed_input_size", False),
        min_size=int((published.get("min_input_size") or (3, 32, 32))[-1]),
        stochastic_depth=0.0 if "drop_path_rate" in options else None,
        published=bool(published.get("hf_hub_id") or published.get("url")),
        licence=published.get("license") or "not stated",
        **known,
    )


def _of_transformer(model: Any) -> dict[str, Any]:
    """What is known of a vision transformer: its stem is lines of its forward pass, its blocks are numbered."""
    prefix = model.num_prefix_tokens
    positions = None if model.pos_embed is None else ("pos_embed", 0 if model.no_embed_class else prefix)
    return {
        "blocks": ("stem", *(f"blocks.{number}" for number in range(len(model.blocks)))),
        "cut": cuts.timm_vision_transformer,
        "head": tuple(name for name, _ in model.named_children() if name not in _TRANSFORMER),
        "prefix_tokens": prefix if model.has_class_token else 0,
        "patch": model.patch_embed.patch_size[0],
        "size_option": "img_size",
        "positions": positions,
    }


def _of_calls(model: nn.Module, side: int) -> dict[str, Any]:
    """What is known of any other model, whose forward pass calls its parts one after the other."""
    metadata = getattr(model, "feature_info", None)
    infos = getattr(metadata, "info", metadata) or []
    stages = tuple(info["module"] for info in infos if info.get("module"))
    if not stages:
        raise _UncutError("it has no feature metadata (`feature_info`)")
    called = _called(model, dict(_parts(model, stages)), side)
    blocks: dict[str, list[str]] = {}
    stage = False  # whether the last block is one
    for path, part in called.items():
        heavy = any(weight.ndim > 1 for weight in part.parameters())
        begins = heavy and ("." in path or any(f"{known}.".startswith(f"{path}.") for known in stages))
        if begins or (heavy and stage) or not blocks:
            blocks[path if begins or blocks else "stem"] = []
            stage = begins
        blocks[next(reversed(blocks))].append(path)
    used = {path.partition(".")[0] for path in called}
    return {
        "blocks": tuple(blocks),
        "cut": cuts.parts(*map(" ".join, blocks.values())),
        "head": tuple(name for name, _ in model.named_children() if name not in used),
    }


def _parts(model: nn.Module, stages: tuple[str, ...], within: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The model's modules by path; a container that holds a stage is taken apart."""
    for name, part in model.named_children():
        path = f"{within}{name}"
        holds = isinstance(part, nn.Sequential) and any(stage.startswith(f"{path}.") for stage in stages)
        if holds or isinstance(part, nn.ModuleList):
            yield from _parts(part, stages, f"{path}.")
        else:
            yield path, part


def _called(model: nn.Module, parts: dict[str, nn.Module], side: int) -> dict[str, nn.Module]:
    """Those of `parts` that `forward_features` calls, in that order; its features must be a map."""
    order: list[str] = []
    hooks = [part.register_forward_hook(lambda *_, path=path: order.append(path)) for path, part in parts.items()]
    with torch.no_grad():
        features = _features(model, torch.zeros(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    twice = next((path for path in order if order.count(path) > 1), None)
    if twice:
        raise _UncutError(f"its forward pass calls '{twice}' more than once")
    shape = tuple(nn.Sequential(*_as_map(model))(features).shape)
    if len(shape) != 4 or shape[1] != model.num_features:
        raise _UncutError(f"its features are no map of {model.num_features} channels, but of shape {shape}")
    return {path: parts[path] for path in order}


def _features(model: Any, pixels: Tensor) -> Tensor:
    features: Tensor = model.forward_features(pixels)
    if not isinstance(features, Tensor):
        raise _UncutError(f"its features are a {type(features).__name__}, no tensor")
    return features


def _as_map(model: Any) -> list[nn.Module]:
    """What makes a map [B, D, h, w] of the model's features, where they are none; tokens with a class token stay."""
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        return [ToMap()]
    if isinstance(model, timm.models.VisionTransformer) and not model.has_class_token:
        return [TokensToMap(model.patch_embed.grid_size, model.num_prefix_tokens)]
    return []


def _checked(name: str, cut: Cut, side: int) -> Cut:
    """As `cut`, but refused where the blocks in order are not the model's own `forward_features`."""

    def checked(model: Any) -> list[nn.Module]:
        blocks = cut(model)
        if next(model.parameters()).is_meta:
            return blocks
        height = model.patch_embed.img_size[0] if isinstance(model, timm.models.VisionTransformer) else side
        pixels = torch.linspace(-2, 2, 3 * height**2).sin().view(1, 3, height, height)
        with _refusing(name), torch.inference_mode():
            was, _ = model.training, model.eval()
            expected = nn.Sequential(*_as_map(model))(_features(model, pixels))
            found = nn.Sequential(*blocks)(pixels)
            model.train(was)
            if found.shape != expected.shape or not _agree(found, expected):
                raise _UncutError("its blocks in order are not its forward pass")
        return blocks

    return checked


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _DIFFERENCE * expected.abs().max())


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except (_UncutError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"params.yaml: model.backbone: {name} cannot be cut into blocks: {reason}",
            "take another model, or a registered backbone: `transferline backbones` lists them",
        ) from None
