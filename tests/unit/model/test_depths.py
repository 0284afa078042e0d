"""A freeze depth by the name of a block."""

import pytest

from transferline.errors import UserError
from transferline.model import backbones, depths
from transferline.tuning import IntRange, Search, Start, Tune

RESNET = backbones.spec("resnet18")


def config(low: int = 0, high: int | None = None, trials: int = 8, **start: object) -> Tune:
    return Tune(trials=trials, start=Start(**start), search=Search(freeze_depth=IntRange(low=low, high=high)))


@pytest.mark.parametrize("name", RESNET.blocks)
def test_all_blocks_up_to_and_including_the_named_one_are_frozen(name: str) -> None:
    found = depths.resolve(config(freeze_to=name), RESNET).start
    assert RESNET.blocks[: found.freeze_depth][-1] == name
    assert found.freeze_to is None


def test_what_is_resolved_and_what_gives_numbers_stays_as_it_is() -> None:
    once = depths.resolve(config(freeze_to="layer3"), RESNET)
    assert once.start.freeze_depth == 4
    assert depths.resolve(once, RESNET) is once
    given = config(freeze_depth=2)
    assert depths.resolve(given, RESNET) is given


def test_an_unknown_block_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        depths.resolve(config(freeze_to="layer5"), RESNET)
    assert caught.value.what == "params.yaml: tune.start.freeze_to: resnet18 has no block 'layer5'"
    assert caught.value.fix.startswith("did you mean 'layer")


def test_a_block_outside_the_space_searched_is_refused_where_there_are_trials() -> None:
    with pytest.raises(UserError, match=r"freeze_to: layer3 freezes 4 blocks, which is outside .*\n.* value is layer1"):
        depths.resolve(config(low=1, high=2, freeze_to="layer3"), RESNET)
    assert depths.resolve(config(low=1, high=2, trials=0, freeze_to="layer3"), RESNET).start.freeze_depth == 4


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (config(freeze_depth=9), "tune.start.freeze_depth: 9"),
        (config(high=6), "tune.search.freeze_depth.high: 6"),
        (config(low=7, freeze_depth=7), "tune.start.freeze_depth: 7"),
    ],
)
def test_a_depth_beyond_the_backbone_is_refused(given: Tune, key: str) -> None:
    with pytest.raises(UserError) as caught:
        depths.resolve(given, RESNET)
    assert caught.value.what == f"params.yaml: {key} is out of range: resnet18 has 5 blocks"
    assert caught.value.fix == "the nearest right value is 5"
