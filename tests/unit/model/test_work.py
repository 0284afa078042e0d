"""Work is counted: multiply-adds of each block, and its layers' outputs."""

import pytest

from tests.unit.model import menu
from transferline.model import engines, work
from transferline.model.classifier import Classifier
from transferline.model.work import OUTPUT, block_work, training_work


@pytest.fixture(scope="module")
def net() -> Classifier:
    return menu.make("small_cnn", 32)


def test_blocks_together_are_half_the_floating_point_operations_and_their_outputs(net: Classifier) -> None:
    works = block_work(net)
    outputs = [16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8, 128 * 4 * 4]  # of the convolutions, each before its pooling
    assert sum(works) == engines.operations(net)[0] / 2 + OUTPUT * sum(outputs)
    first = 27 * outputs[0] + OUTPUT * outputs[0]  # 3x3 filters over three channels
    assert works[0] == first


@pytest.mark.parametrize("backbone", ["mlp", "mobilenet_v3_small"])
def test_multiply_adds_alone_are_half_the_operations_of_any_network(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "OUTPUT", 0)
    net = menu.make(backbone, 32)
    works = block_work(net)
    assert len(works) == len(net.blocks)
    assert sum(works) == engines.operations(net)[0] / 2 > 0


def test_counting_leaves_nothing_behind_and_gives_the_same_again(net: Classifier) -> None:
    assert block_work(net) == block_work(net.train())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("kept", [False, True])
def test_training_is_less_work_the_more_is_frozen(net: Classifier, kept: bool) -> None:
    works = block_work(net)
    found = [training_work(net, works, depth, kept=kept) for depth in range(5)]
    assert found == sorted(set(found), reverse=True)
    assert found[0] == pytest.approx(3 * (sum(works) + 128 * 3 + 3))
    assert found[4] == pytest.approx(3 * (128 * 3 + 3) + (0 if kept else sum(works)))


def test_what_is_kept_spares_the_forward_pass_of_the_frozen_blocks(net: Classifier) -> None:
    works = block_work(net)
    spared = training_work(net, works, 3, kept=False) - training_work(net, works, 3, kept=True)
    assert spared == pytest.approx(sum(works[:3]))
