"""Which weights learn at which rate, and by which rule."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from transferline.errors import UserError, nearest
from transferline.fitting import Fit
from transferline.model.classifier import Classifier, Suffix

# Of timm's: those that need a package or a GPU of their own, and the one that differentiates twice.
_OTHERS = ["bnb*", "fused*", "kron*", "adahessian"]
_NOT_DECAYED = ("bias", "token", "pos_emb")  # in a weight's own name: those of attention are no vectors


def make_optimizer(net: Classifier | Suffix, config: Fit, lr: float) -> Optimizer:
    """With a group for what `groups` gives.

    lamb is of You et al. 2019 (arXiv 1904.00962); it and `timm/<name>` come from timm's factory.

    Raises:
        UserError: for a name that timm does not know.
    """
    made: list[dict[str, Any]] = list(groups(net, config, lr))
    decay, momentum = config.weight_decay, config.momentum
    match config.optimizer:
        case "adamw":
            return AdamW(made, weight_decay=decay)
        case "adam":
            return Adam(made, weight_decay=decay)
        case "sgd":
            return SGD(made, momentum=momentum, nesterov=config.nesterov and momentum > 0, weight_decay=decay)
        case "rmsprop":
            return RMSprop(made, momentum=momentum, weight_decay=decay)
        case "adagrad":
            return Adagrad(made, weight_decay=decay)
    check_optimizer(config.optimizer)
    from timm.optim import create_optimizer_v2

    name = config.optimizer.removeprefix("timm/")
    optimizer: Optimizer = create_optimizer_v2(made, name, lr=lr, weight_decay=decay, momentum=momentum)
    return optimizer


def check_optimizer(name: str) -> None:
    """Raises UserError where `name` is one of timm's that it does not have, or that cannot be used here."""
    if not name.startswith("timm/"):
        return
    from timm.optim import list_optimizers

    known = [f"timm/{other}" for other in list_optimizers(exclude_filters=_OTHERS)]
    if name not in known:
        raise UserError(f"optimizer: '{name}' is not an optimizer of timm's that can be used", nearest(name, known))


def groups(net: Classifier | Suffix, config: Fit, lr: float) -> Iterator[dict[str, Any]]:
    """Weights with their rate and decay: the head's, then each block's that is trained, from the top down.

    Every block's rate is `config.layer_decay` times that of what is above it (Clark et al. 2020, arXiv 2003.10555;
    Bao et al. 2021, arXiv 2106.08254), where the head's counts for `lr * config.backbone_lr_factor`. Biases and norms
    are a group of their own, without decay (He et al. 2018, arXiv 1812.01187), and so are the tokens and positions of
    transformers. Blocks are counted from 1, so that `block 4` is the first in training at depth 3.
    """
    yield from _split("head", net.head, config, lr)
    rate = lr * config.backbone_lr_factor
    for number, block in reversed(list(enumerate(net.blocks, net.offset + 1))):
        rate *= config.layer_decay
        yield from _split(f"block {number}", block, config, rate)


def _split(name: str, part: nn.Module, config: Fit, rate: float) -> Iterator[dict[str, Any]]:
    trained = [(key, weight) for key, weight in part.named_parameters() if weight.requires_grad]
    decayed = [weight for key, weight in trained if config.decay_norms_and_biases or decays(key, weight)]
    kept = {id(weight) for weight in decayed}
    rest = [weight for _, weight in trained if id(weight) not in kept]
    if decayed:
        yield {"params": decayed, "lr": rate, "name": name, "weight_decay": config.weight_decay}
    if rest:
        yield {"params": rest, "lr": rate, "name": f"{name}, norms and biases", "weight_decay": 0.0}


def decays(name: str, weight: nn.Parameter) -> bool:
    """Whether it multiplies what goes through the network: not a bias, a norm, a token or a position."""
    return weight.ndim > 1 and not any(part in name.rpartition(".")[2] for part in _NOT_DECAYED)
