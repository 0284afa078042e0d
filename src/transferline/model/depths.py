"""Freeze depths of the tune section as numbers that the backbone has: a block's name becomes its place."""

from transferline.errors import UserError, nearest
from transferline.model.specs import Spec
from transferline.tuning import Tune


def depth_of(spec: Spec, block: str, key: str = "tune.start.freeze_to") -> int:
    """How many blocks are frozen where all up to and including `block` are; `key` of params.yaml names it.

    Raises:
        UserError: with the nearest name, where there is no such block.
    """
    if block not in spec.blocks:
        raise UserError(f"params.yaml: {key}: {spec.name} has no block '{block}'", nearest(block, spec.blocks))
    return spec.blocks.index(block) + 1


def resolve(config: Tune, spec: Spec) -> Tune:
    """`config` with `start.freeze_depth` for what `start.freeze_to` names; one that has been resolved stays as it is.

    Raises:
        UserError: for a name that is no block's, a depth beyond the backbone, or a start outside the space searched.
    """
    start, search = config.start, config.search.freeze_depth
    _require(start.freeze_depth or 0, spec, "tune.start.freeze_depth")
    _require(search.low, spec, "tune.search.freeze_depth.low")
    high = spec.depth if search.high is None else search.high
    _require(high, spec, "tune.search.freeze_depth.high")
    if start.freeze_to is None:
        return config
    named = depth_of(spec, start.freeze_to)
    if config.trials and not search.low <= named <= high:
        raise UserError(
            f"params.yaml: tune.start.freeze_to: {start.freeze_to} freezes {named} blocks, which is outside"
            " tune.search.freeze_depth",
            f"the nearest right value is {spec.blocks[max(min(max(named, search.low), high), 1) - 1]}",
        )
    return config.model_copy(update={"start": start.model_copy(update={"freeze_depth": named, "freeze_to": None})})


def _require(depth: int, spec: Spec, key: str) -> None:
    if depth > spec.depth:
        raise UserError(
            f"params.yaml: {key}: {depth} is out of range: {spec.name} has {spec.depth} blocks",
            f"the nearest right value is {spec.depth}",
        )
