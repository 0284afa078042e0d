"""Building the library's own model of a `Spec`, weights aside; and its bones alone, on the meta device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from transferline.model.specs import Spec


def create(spec: Spec, options: Mapping[str, Any], stochastic_depth: float | None) -> nn.Module:
    """As Spec.create, which has checked both.

    Args:
        options: keywords of the library's builder.
    """
    name = spec.library_name or spec.name
    model: nn.Module
    if spec.library == "scratch":
        from transferline.model import scratch

        return scratch.NETS[name](**options)
    if spec.library == "timm":
        import timm

        rate: dict[str, Any] = {} if stochastic_depth is None else {"drop_path_rate": stochastic_depth}
        model = timm.create_model(name, pretrained=False, **options, **rate)
        return model
    from torchvision import models

    model = models.get_model(name, weights=None, **options)
    if stochastic_depth is not None:
        _drop_paths(model, stochastic_depth / (spec.stochastic_depth or 1))
    return model


def _drop_paths(model: nn.Module, factor: float) -> None:
    """Scale the rates of torchvision's layers: not every builder takes one, and all let it fall linearly."""
    from torchvision.ops import StochasticDepth

    for layer in model.modules():
        if isinstance(layer, StochasticDepth):
            layer.p *= factor


class _Boneless(TorchFunctionMode):
    """Has what layers allocate for their weights lie on the meta device, so that building takes no time.

    `torch.device("meta")` will not do: some builders compute widths and rates with tensors, whose values they need.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def outline(build: Callable[[], nn.Module]) -> nn.Module:
    """The model that `build` gives, in eval mode, every tensor of it on the meta device; no random number is drawn."""
    with torch.random.fork_rng(devices=[]), _Boneless():
        model = build()
    return model.to("meta").eval()
