"""Frozen blocks as a function: the same in every engine, and run by the fastest that agrees."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.model import menu
from transferline.artifacts import ModelCard
from transferline.model import backbones, classifier, engines
from transferline.model.engines import BATCH, TOLERANCE, Array, Chosen, Prefix, choose

Net = classifier.Classifier
TRANSLATED = {"efficientnet_lite0", "resnet18", "mlp", "vit_small"}  # maps, vectors, tokens
Run = Callable[[Array], list[np.ndarray]]


def build(backbone: str, side: int) -> Net:
    """Random weights, and BatchNorm as after a training: statistics of what it has seen, affine parameters drawn."""
    spec = backbones.spec(backbone)
    card = ModelCard(backbone, ["a", "b"], side, "squash", list(spec.mean), list(spec.std), dropout=0.1)
    net = classifier.build(card, "none", seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.3, 0.3, generator=generator)
            module.momentum = None  # the mean of all batches, so that one is enough
    with torch.no_grad():
        net.train()(torch.randint(0, 256, (4, 3, side, side), generator=generator).float())
    return net.eval()


def images(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def net() -> Net:
    return build("mobilenet_v3_small", 32)


def by_hand(net: Net, stored: np.ndarray, depth: int) -> np.ndarray:
    with torch.inference_mode():
        features = (torch.from_numpy(stored).permute(0, 3, 1, 2).float() - net.mean) / net.std
        for block in list(net.blocks)[:depth]:
            features = block(features)
    return features.numpy()


@pytest.mark.parametrize("depths", [(1,), (2, 5, 12), tuple(range(1, 13))], ids=str)
def test_a_prefix_gives_what_the_blocks_give_one_by_one(net: Net, depths: tuple[int, ...]) -> None:
    stored = images(3)
    with torch.inference_mode():
        left = Prefix(net, depths)(torch.from_numpy(stored))
    assert len(left) == len(depths)
    for depth, values in zip(depths, left, strict=True):
        np.testing.assert_array_equal(values.numpy(), by_hand(net, stored, depth))


def test_behind_the_last_block_it_is_pooled_as_the_head_would(net: Net) -> None:
    stored = images(3, side=64)
    with torch.inference_mode():
        twelfth, last = Prefix(net, (12, 13))(torch.from_numpy(stored))
    whole = by_hand(net, stored, 13)
    assert whole.shape[2:] == (2, 2)
    assert twelfth.shape[2:] == (2, 2)
    assert last.shape == (3, 576)
    np.testing.assert_allclose(last.numpy(), whole.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", [1, 4, 12])
def test_a_prefix_from_a_boundary_equals_the_one_from_images(net: Net, start: int) -> None:
    stored = images(5)
    boundary, *expected = engines.in_torch(Prefix(net, (start, *range(start + 1, 14))))(stored)
    found = engines.in_torch(Prefix(net, range(start + 1, 14), start))(boundary)
    assert len(found) == len(expected) == 13 - start
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_engine_runs_the_blocks_in_eval_mode_and_changes_none_of_them(net: Net) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    first = engines.in_torch(Prefix(net, (3, 13)))(images(4))
    assert not any(module.training for module in net.blocks.modules())
    np.testing.assert_array_equal(first[0], by_hand(net, images(4), 3))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("start", [0, 1])
def test_memory_mapped_batches_are_read_without_a_warning(net: Net, start: int) -> None:
    batch = engines.in_torch(Prefix(net, (1,)))(images(2))[0] if start else images(2)
    batch.flags.writeable = False
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else only the first of a process is seen
    try:
        left = engines.in_torch(Prefix(net, (2,), start))(batch)[0]
    finally:
        torch.set_warn_always(always)
    np.testing.assert_array_equal(left, by_hand(net, images(2), 2))


@pytest.mark.parametrize("backbone", menu.rows(TRANSLATED))
def test_onnxruntime_agrees_with_torch_at_every_boundary(backbone: str) -> None:
    net = menu.make(backbone)
    side = net.card.input_size
    prefix, stored = Prefix(net, range(1, len(net.blocks) + 1)), images(2, side)
    by_torch, by_onnx = engines.in_torch(prefix), engines.in_onnxruntime(prefix, stored)
    assert len(by_torch(stored)) == backbones.spec(backbone).depth
    assert all(np.ptp(values, axis=0).max() > 1e-3 * np.abs(values).max() for values in by_torch(stored))
    assert engines.difference(by_torch, by_onnx, stored) <= TOLERANCE
    assert engines.difference(by_torch, by_onnx, images(1, side)) <= TOLERANCE  # a last batch is shorter


def test_onnxruntime_continues_from_a_boundary(net: Net) -> None:
    boundary = engines.in_torch(Prefix(net, (11,)))(images(3))[0]
    prefix = Prefix(net, (12, 13), start=11)
    by_onnx = engines.in_onnxruntime(prefix, boundary)
    assert engines.difference(engines.in_torch(prefix), by_onnx, boundary) <= TOLERANCE


def constant(*values: float) -> Run:
    return lambda batch: [np.full((len(batch), 2), value, np.float32) for value in values]


def test_the_difference_is_a_share_of_the_largest_activation_and_of_the_worst_boundary() -> None:
    assert engines.difference(constant(4.0, 10.0), constant(4.0, 9.0), images(2)) == pytest.approx(0.1)
    assert engines.difference(constant(4.0, 10.0), constant(3.0, 10.0), images(2)) == pytest.approx(0.25)
    assert engines.difference(constant(0.0), constant(0.0), images(2)) == 0


@pytest.mark.parametrize("broken", [(np.nan, 1.0), (1.0, np.nan)], ids=["first", "second"])
def test_what_is_no_number_at_any_boundary_is_no_agreement(broken: tuple[float, float]) -> None:
    assert not engines.difference(constant(1.0, 1.0), constant(*broken), images(2)) <= TOLERANCE


def never(*_: object) -> Run:
    raise AssertionError("the blocks are translated")


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Images a second that each engine seems to run at: torch far too slow for the data of these tests."""
    measured = {"torch": 0.1, "onnxruntime": 1.0}
    monkeypatch.setattr(engines, "_measured", lambda name, run, batches: Chosen(name, run, measured[name]))
    monkeypatch.setattr(engines, "in_torch", lambda prefix: constant(4.0))
    monkeypatch.setattr(engines, "in_onnxruntime", lambda prefix, example: constant(4.0))
    return measured


def test_what_torch_does_at_once_is_not_translated(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "in_onnxruntime", never)
    chosen = choose(Prefix(net, (2,)), images(2 * BATCH + 3))
    assert chosen.name == "torch"
    assert chosen.rate > 0
    np.testing.assert_array_equal(chosen.run(images(3))[0], by_hand(net, images(3), 2))


@pytest.mark.parametrize(("onnxruntime", "expected"), [(1.0, "onnxruntime"), (0.05, "torch")])
def test_where_torch_is_slow_the_faster_engine_is_taken(
    net: Net, rates: dict[str, float], onnxruntime: float, expected: str
) -> None:
    rates["onnxruntime"] = onnxruntime
    chosen = choose(Prefix(net, (2,)), images(20))
    assert (chosen.name, chosen.rate) == (expected, rates[expected])


def test_a_faster_engine_that_disagrees_is_not_taken(
    net: Net, rates: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for off, expected in ((0.5 * TOLERANCE, "onnxruntime"), (2 * TOLERANCE, "torch")):
        monkeypatch.setattr(engines, "in_onnxruntime", lambda prefix, example, off=off: constant(4.0 * (1 - off)))
        assert choose(Prefix(net, (2,)), images(20)).name == expected
        assert choose(Prefix(net, (2,)), images(20), "onnxruntime").name == expected


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime"])
def test_blocks_that_cannot_be_translated_are_run_by_torch(
    net: Net,
    rates: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: engines.EngineName,
) -> None:
    def fail(*_: object) -> Run:
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand much more about it")

    monkeypatch.setattr(engines, "in_onnxruntime", fail)
    assert choose(Prefix(net, (2,)), images(20), wanted).name == "torch"
    assert "onnxruntime cannot run these blocks, torch does: no such operator\n" in capsys.readouterr().out


class Untranslatable(nn.Module):
    """Of an operator that ONNX has no counterpart of."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(features)


def test_an_operator_unknown_to_onnx_is_met_by_torch(capsys: pytest.CaptureFixture[str]) -> None:
    odd = build("mobilenet_v3_small", 32)
    odd.blocks[0] = Untranslatable()
    chosen = choose(Prefix(odd, (1,)), images(2), "onnxruntime")
    assert chosen.name == "torch"
    assert chosen.run(images(2))[0].shape == (2, 3, 32, 32)
    assert "onnxruntime cannot run these blocks, torch does: " in capsys.readouterr().out


def test_the_engine_that_is_asked_for_is_taken_whatever_it_takes(net: Net, rates: dict[str, float]) -> None:
    rates["onnxruntime"] = 0.01
    assert choose(Prefix(net, (2,)), images(20), "onnxruntime").name == "onnxruntime"
    rates["onnxruntime"] = 100.0
    assert choose(Prefix(net, (2,)), images(20), "torch").name == "torch"


def test_a_gpu_leaves_the_blocks_to_torch(net: Net, rates: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(engines, "in_onnxruntime", never)
    assert choose(Prefix(net, (2,)), images(20)).name == "torch"


@pytest.mark.parametrize(("count", "timed"), [(5, [5, 5]), (20, [16, 4]), (100, [16, 16, 16])])
def test_an_engine_is_measured_on_some_batches_after_one_that_warms_up(
    net: Net, monkeypatch: pytest.MonkeyPatch, count: int, timed: Sequence[int]
) -> None:
    seen: list[int] = []

    def run(batch: Array) -> list[Any]:
        seen.append(len(batch))
        return constant(1.0)(batch)

    monkeypatch.setattr(engines, "in_torch", lambda prefix: run)
    choose(Prefix(net, (2,)), images(count), "torch")
    assert seen == list(timed)
