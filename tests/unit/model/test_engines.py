"""Frozen blocks as a function: the same in every engine, and run by one that a rule chooses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.model import menu
from transferline.artifacts import ModelCard
from transferline.model import backbones, classifier, engines
from transferline.model.engines import EVERY, TOLERANCE, Array, Prefix, choose

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


@pytest.mark.parametrize("depths", [(EVERY,), (EVERY, 13), (EVERY, 2, 5)], ids=str)
def test_behind_every_block_but_the_last_mean_and_maximum_are_pooled(net: Net, depths: tuple[int, ...]) -> None:
    stored = images(3, side=64)
    with torch.inference_mode():
        every, *others = (values.numpy() for values in Prefix(net, depths)(torch.from_numpy(stored)))
    maps = [by_hand(net, stored, depth) for depth in range(1, 13)]
    expected = np.hstack([pool for one in maps for pool in (one.mean(axis=(2, 3)), one.max(axis=(2, 3)))])
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-5)
    for depth, values in zip(depths[1:], others, strict=True):
        if depth < 13:
            np.testing.assert_array_equal(values, maps[depth - 1])
        else:
            np.testing.assert_array_equal(values, Prefix(net, (13,))(torch.from_numpy(stored))[0].detach().numpy())


def test_of_token_maps_the_patches_alone_are_pooled() -> None:
    net = build("vit_small", 32)
    assert net.head.tap.prefix_tokens == 1
    stored = images(2)
    with torch.inference_mode():
        every = Prefix(net, (EVERY,))(torch.from_numpy(stored))[0].numpy()
    patches = [by_hand(net, stored, depth)[:, 1:] for depth in range(1, len(net.blocks))]
    expected = np.hstack([pool for one in patches for pool in (one.mean(axis=1), one.max(axis=1))])
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-5)


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
    graph = engines.translated(prefix)
    by_torch, by_onnx = engines.in_torch(prefix), engines.in_onnxruntime(graph, prefix.depths)
    assert len(by_torch(stored)) == backbones.spec(backbone).depth
    assert all(np.ptp(values, axis=0).max() > 1e-3 * np.abs(values).max() for values in by_torch(stored))
    assert engines.difference(by_torch, by_onnx, stored) <= TOLERANCE
    assert engines.difference(by_torch, by_onnx, images(1, side)) <= TOLERANCE  # a last batch is shorter
    for depths in ((1,), (prefix.depths[-1],), (1, 2)):  # the same bits, whatever else is asked for
        alone = engines.in_onnxruntime(graph, depths)(stored)
        assert all(
            np.array_equal(values, by_onnx(stored)[depth - 1]) for depth, values in zip(depths, alone, strict=True)
        )


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


def counted(net: Net) -> int:
    return engines.operations(net)[0]


def test_operations_are_those_of_all_blocks_for_one_image(net: Net) -> None:
    net.train()
    by_hand = 0
    handles = [
        module.register_forward_hook(lambda module, _, out: sizes.append((module, out.shape)))
        for module in net.blocks.modules()
        if isinstance(module, nn.Conv2d)
    ]
    sizes: list[tuple[nn.Conv2d, torch.Size]] = []
    every, convolutions = engines.operations(net)
    for handle in handles:
        handle.remove()
    for module, shape in sizes:
        by_hand += 2 * shape[1:].numel() * module.weight[0].numel()
    assert convolutions == every == by_hand > 0


@pytest.mark.parametrize(("images_", "expected"), [(-1, "torch"), (0, "onnxruntime")])
def test_onnxruntime_runs_what_is_worth_the_translation(net: Net, images_: int, expected: str) -> None:
    enough = -int(-engines.WORTH // counted(net))
    assert engines.preferred(net, enough + images_) == expected
    assert engines.preferred(net, 1, "onnxruntime") == "onnxruntime"
    assert engines.preferred(net, enough, "torch") == "torch"


def test_networks_of_matrix_products_stay_with_torch() -> None:
    assert engines.preferred(build("mlp", 32), 10**12) == "torch"


def test_a_gpu_leaves_the_blocks_to_torch(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "pick_device", lambda: torch.device("cuda"))
    assert {engines.preferred(net, 10**12, wanted) for wanted in ("auto", "torch", "onnxruntime")} == {"torch"}


def test_no_clock_decides(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second clone of the project, on a machine that is busy meanwhile, takes the same engine."""
    for name in ("time", "perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(f"time.{name}", never)
    assert engines.preferred(net, 10**12) == "onnxruntime"
    assert engines.preferred(net, 10) == "torch"


def test_torch_needs_no_translation(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "translated", never)
    chosen = choose(Prefix(net, (2,)), "torch")
    assert chosen.name == "torch"
    np.testing.assert_array_equal(chosen.run(images(3))[0], by_hand(net, images(3), 2))


@pytest.fixture
def seeming(net: Net, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """What each engine gives; the network is not translated."""
    given = {"torch": constant(4.0), "onnxruntime": constant(4.0)}
    monkeypatch.setattr(engines, "in_torch", lambda prefix: given["torch"])
    monkeypatch.setattr(engines, "translated", lambda prefix: None)
    monkeypatch.setattr(engines, "in_onnxruntime", lambda graph, depths: given["onnxruntime"])
    return given


@pytest.mark.parametrize(("off", "expected"), [(0.5 * TOLERANCE, "onnxruntime"), (2 * TOLERANCE, "torch")])
def test_onnxruntime_is_taken_only_where_it_agrees(
    net: Net, seeming: dict[str, Run], capsys: pytest.CaptureFixture[str], off: float, expected: str
) -> None:
    seeming["onnxruntime"] = constant(4.0 * (1 - off))
    assert choose(Prefix(net, (2,)), "onnxruntime").name == expected
    said = "onnxruntime differs from torch by 0.002 of the largest activation: torch runs the blocks\n"
    assert (said in capsys.readouterr().out) == (expected == "torch")


def test_agreement_behind_every_block_counts_and_not_where_it_is_asked_for(net: Net, seeming: dict[str, Run]) -> None:
    """Else what is kept behind one depth would hang on which others were asked for with it."""
    seeming["torch"], seeming["onnxruntime"] = constant(4.0, 4.0), constant(4.0, 5.0)
    assert choose(Prefix(net, (1,)), "onnxruntime").name == "torch"


def test_blocks_that_cannot_be_translated_are_run_by_torch(
    net: Net, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand much more about it")

    monkeypatch.setattr(engines, "translated", fail)
    assert choose(Prefix(net, (2,)), "onnxruntime").name == "torch"
    assert "onnxruntime cannot run these blocks, torch does: no such operator\n" in capsys.readouterr().out


class Untranslatable(nn.Module):
    """Of an operator that ONNX has no counterpart of."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(features)


def test_an_operator_unknown_to_onnx_is_met_by_torch(capsys: pytest.CaptureFixture[str]) -> None:
    odd = build("mobilenet_v3_small", 32)
    odd.blocks[12] = Untranslatable()
    chosen = choose(Prefix(odd, (1,)), "onnxruntime")  # which is in front of it, and yet torch's
    assert chosen.name == "torch"
    assert chosen.run(images(2))[0].shape == (2, 16, 16, 16)
    assert "onnxruntime cannot run these blocks, torch does: " in capsys.readouterr().out


def test_onnxruntime_runs_real_blocks(net: Net) -> None:
    chosen = choose(Prefix(net, (2, 13)), "onnxruntime")
    assert chosen.name == "onnxruntime"
    by_torch = engines.in_torch(Prefix(net, (2, 13)))
    assert engines.difference(by_torch, chosen.run, images(3)) <= TOLERANCE


def test_onnxruntime_agrees_on_what_is_pooled_behind_every_block() -> None:
    small = menu.make("small_cnn", 32)
    chosen = choose(Prefix(small, (EVERY, 4)), "onnxruntime")
    assert chosen.name == "onnxruntime"
    by_torch = engines.in_torch(Prefix(small, (EVERY, 4)))
    assert [values.shape for values in chosen.run(images(3))] == [(3, 224), (3, 128)]
    assert engines.difference(by_torch, chosen.run, images(3)) <= TOLERANCE
    assert engines.difference(by_torch, chosen.run, images(1)) <= TOLERANCE
