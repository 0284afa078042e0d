"""How much work each block of a backbone is: by counting, so that every machine finds the same."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transferline.model.classifier import Classifier

# A layer's outputs are written, normalised, activated and read again. On a CPU each costs about as much time as this
# many multiply-adds: so the early blocks, which are cheap to multiply, are what takes long (`benchmarks/step.py`).
OUTPUT = 300


def block_work(net: Classifier) -> list[float]:
    """Of each block, for one image forward: multiply-adds, and OUTPUT of them for each output of a layer."""
    features, found = torch.zeros(1, 3, net.card.input_size, net.card.input_size), []
    outputs = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal outputs
        outputs += out.numel()

    layers = [module for module in net.blocks.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in layers]
    try:
        for block in net.blocks:
            outputs = 0
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                features = block.eval()(features)
            found.append(counter.get_total_flops() / 2 + OUTPUT * outputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def training_work(net: Classifier, works: list[float], depth: int, *, kept: bool) -> float:
    """Of one image in training: forward and backward through what is trained, a backward pass being two forward ones.

    Args:
        works: of `block_work`.
        depth: blocks that are frozen.
        kept: whether what these give is kept; they run forward else.
    """
    head = sum(weight.numel() for weight in net.head.parameters())
    return 3 * (sum(works[depth:]) + head) + (0 if kept else sum(works[:depth]))
