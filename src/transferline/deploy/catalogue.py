"""What each backbone is and costs, worked out from its bones: no weights are loaded, and nothing is computed.

Counts are of the blocks alone, without the library's classification layers. A multiply-add is one operation, as in
the papers and in torchvision's tables; half of what counts multiplications and additions apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from transferline.model import backbones
from transferline.model.backbones import Spec


@dataclass(frozen=True)
class Block:
    """One block, at the backbone's own input size.

    Attributes:
        depth: blocks frozen where this one is the last.
        shape: of what it gives for a single image.
    """

    depth: int
    name: str
    parameters: int
    multiply_adds: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue.

    Attributes:
        top1: percent of ImageNet's validation images classified rightly; None: the library does not say.
        here: whether the weights are on this machine.
    """

    name: str
    family: str
    blocks: int
    parameters: int
    multiply_adds: int
    input_size: int
    feature_dim: int
    top1: float | None
    licence: str
    source: str
    here: bool


def entries(names: Iterable[str]) -> Iterator[Entry]:
    """One after the other. Raises UserError for a name that is not known."""
    for name in names:
        yield entry(backbones.spec(name))


def entry(spec: Spec) -> Entry:
    from transferline.model import hubs

    found, published = blocks(spec), hubs.published(spec)
    return Entry(
        name=spec.name,
        family=spec.family,
        blocks=spec.depth,
        parameters=sum(block.parameters for block in found),
        multiply_adds=sum(block.multiply_adds for block in found),
        input_size=spec.input_size,
        feature_dim=spec.feature_dim,
        top1=published.top1,
        licence=spec.licence,
        source=published.source,
        here=published.here,
    )


def blocks(spec: Spec) -> list[Block]:
    """Of each block, what it holds and what it costs for one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from transferline.model import libraries

    found = []
    features = torch.zeros(1, 3, spec.input_size, spec.input_size, device="meta")
    parts = spec.cut(libraries.outline(spec.create))
    for depth, (name, part) in enumerate(zip(spec.blocks, parts, strict=True), 1):
        # With gradients, since torch's fast path of attention, taken without, is one operator that is not counted.
        with FlopCounterMode(display=False) as counter:
            features = part(features).detach()
        weights = sum(weight.numel() for weight in part.parameters())
        found.append(Block(depth, name, weights, counter.get_total_flops() // 2, tuple(features.shape[1:])))
    return found


def as_records(found: Iterable[Entry | Block]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]
