"""The cache: computed once, whichever process asks, and never more than there is room for.

Run as a script, this is another process that computes the same: see `other_process`.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from transferline.artifacts import Arrays, ModelCard
from transferline.model import activations, classifier, engines, stored
from transferline.model.activations import Cache, key
from transferline.model.engines import BATCH, EVERY, Array, Chosen, Prefix
from transferline.model.stored import Stored
from transferline.sections import Activations

Net = classifier.Classifier
CARD = ModelCard("mobilenet_v3_small", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.2] * 3, dropout=0.1)
EXACT = Activations(dtype="float32", engine="torch")
SIZES = {1: 540_672, 3: 50_688, 6: 21_120, 13: 76_032}  # bytes in float32 behind a depth, of 33 views


def build(card: ModelCard = CARD) -> Net:
    """BatchNorm statistics and affine parameters are drawn: they are part of the function."""
    net = classifier.build(card, "none", seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.running_var, 0.2, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high, generator=generator)
    return net


def draw_arrays(count: int = 11, views: int = 3, side: int = 32) -> Arrays:
    """By default 33 views: two batches, and one that is left over."""
    images = np.random.default_rng(5).integers(0, 256, (count, views, side, side, 3), dtype=np.uint8)
    images.flags.writeable = False  # as a memory-mapped array
    return Arrays(images, np.arange(count, dtype=np.int64) % 3, [f"{row}.png" for row in range(count)], CARD.classes)


@pytest.fixture(scope="module")
def built() -> Net:
    return build()


@pytest.fixture
def net(built: Net) -> Net:
    return deepcopy(built)


@pytest.fixture(scope="module")
def graph(built: Net) -> Any:
    return engines.translated(engines._every(built))


@pytest.fixture
def translated_once(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translating takes seconds: `net` is translated once for all tests."""
    monkeypatch.setattr(engines, "translated", lambda _: graph)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return draw_arrays()


@dataclasses.dataclass
class Pass:
    """What an engine was chosen for, and the batches that it ran since."""

    depths: tuple[int, ...]
    start: int
    batches: list[int] = dataclasses.field(default_factory=list)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    return record_passes(monkeypatch)


def record_passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Each engine chosen from here on."""
    made: list[Pass] = []

    def choose(prefix: Prefix, name: engines.Runner) -> Chosen:
        chosen = engines.choose(prefix, name)
        made.append(Pass(prefix.depths, prefix.start))
        batches = made[-1].batches

        def run(batch: Array) -> list[np.ndarray]:
            batches.append(len(batch))
            return chosen.run(batch)

        return Chosen(chosen.name, run)

    monkeypatch.setattr(activations, "choose", choose)
    return made


def direct(net: Net, arrays: Arrays, depth: int) -> np.ndarray:
    """[N, V, ...boundary] without a cache, image by image in the same batches."""
    flat = arrays.images.reshape(-1, *arrays.images.shape[2:])
    run = engines.in_torch(Prefix(deepcopy(net), [depth]))
    parts = [run(flat[start : start + BATCH])[0] for start in range(0, len(flat), BATCH)]
    whole: np.ndarray = np.concatenate(parts)
    return whole.reshape(*arrays.images.shape[:2], *whole.shape[1:])


def digests(found: Mapping[int, Stored]) -> dict[int, str]:
    return {depth: hashlib.sha256(kept.values.tobytes()).hexdigest() for depth, kept in found.items()}


def left_in(folder: Path) -> list[str]:
    """All files but the locks."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return sorted(file.relative_to(folder).as_posix() for file in files)


def whole(group: str, *depths: int) -> list[str]:
    return sorted(f"{group}/depth_{depth:02d}/{name}" for depth in depths for name in ("activations.npy", "entry.json"))


# --- one pass -------------------------------------------------------------------------------


def test_all_depths_are_computed_in_one_pass_and_never_again(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    found = Cache(EXACT, tmp_path).open(net, arrays, "digest", {13, 3, 6, 0}, "train")
    assert list(found) == [3, 6, 13]
    assert passes == [Pass((3, 6, 13), 0, [16, 16, 1])]
    again = Cache(EXACT, tmp_path).open(deepcopy(net), arrays, "digest", [3, 6, 13], "train")
    assert len(passes) == 1
    assert digests(again) == digests(found)


def test_every_view_of_every_image_lies_in_its_place(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    found = Cache(EXACT, tmp_path).open(net, arrays, "digest", [1, 6, 13], "train")
    for depth, kept in found.items():
        np.testing.assert_array_equal(kept.values, direct(net, arrays, depth))
    rows, views = np.array([10, 0, 4]), np.array([2, 1, 0])
    np.testing.assert_array_equal(found[6].take(rows, views).numpy(), direct(net, arrays, 6)[rows, views])


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_less_than_float32_is_the_same_rounded_once(
    net: Net, arrays: Arrays, tmp_path: Path, dtype: str, rounding: float
) -> None:
    config = EXACT.model_copy(update={"dtype": dtype})
    rows, views = np.repeat(np.arange(11), 3), np.tile(np.arange(3), 11)
    taken = Cache(config, tmp_path).open(net, arrays, "digest", [6], "train")[6].take(rows, views)
    assert taken.dtype == getattr(torch, dtype)
    exact = torch.from_numpy(direct(net, arrays, 6)[rows, views])
    assert torch.equal(taken, exact.to(taken.dtype))
    torch.testing.assert_close(taken.float(), exact, rtol=rounding, atol=1e-7)


def test_a_depth_that_is_asked_for_later_is_computed_alone(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    cache = Cache(Activations(engine="torch"), tmp_path)
    first = cache.open(net, arrays, "digest", [6], "train")
    both = cache.open(net, arrays, "digest", [6, 9], "train")
    assert [(made.depths, made.start) for made in passes] == [((6,), 0), ((9,), 0)]
    assert digests(both)[6] == digests(first)[6]


def test_train_and_val_share_one_engine(net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]) -> None:
    cache = Cache(EXACT, tmp_path)
    cache.open(net, arrays, "train", [3, 13], "train")
    found = cache.open(net, draw_arrays(5, 1), "val", [3, 13], "val")
    assert passes == [Pass((3, 13), 0, [16, 16, 1, 5])]
    np.testing.assert_array_equal(found[3].values, direct(net, draw_arrays(5, 1), 3))


def test_an_engine_does_not_serve_a_classifier_that_it_was_not_made_from(
    net: Net, arrays: Arrays, tmp_path: Path
) -> None:
    cache, same = Cache(EXACT, tmp_path), deepcopy(net)
    cache.open(net, arrays, "train", [3], "train")
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)  # as training it would
    np.testing.assert_array_equal(cache.open(same, arrays, "other", [3], "other")[3].values, direct(same, arrays, 3))


def test_an_engine_does_not_serve_another_normalisation(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    cache, other = Cache(EXACT, tmp_path), build(dataclasses.replace(CARD, mean=[0.1, 0.2, 0.3]))
    first = cache.open(net, arrays, "digest", [3], "train")
    second = cache.open(other, arrays, "digest", [3], "train")
    np.testing.assert_array_equal(first[3].values, direct(net, arrays, 3))
    np.testing.assert_array_equal(second[3].values, direct(other, arrays, 3))


@pytest.mark.parametrize("depths", [[], [0]], ids=str)
def test_in_front_of_all_blocks_there_is_nothing_to_keep(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass], depths: list[int]
) -> None:
    assert Cache(EXACT, tmp_path).open(net, arrays, "digest", depths, "train") == {}
    assert passes == []
    assert list(tmp_path.iterdir()) == []


def test_switched_off_it_does_nothing(net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]) -> None:
    off = Activations(mode="off", dtype="float32")
    assert Cache(off, tmp_path).open(net, arrays, "digest", [3, 6], "train") == {}
    assert passes == []
    assert list(tmp_path.iterdir()) == []


def test_it_lies_in_the_projects_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert Cache(EXACT).folder == tmp_path.resolve() / ".cache" / "activations"


def test_a_pass_moves_nothing_in_the_classifier(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.freeze(6)
    net.train()
    Cache(EXACT, tmp_path).open(net, arrays, "digest", [6, 13], "train")
    after = net.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert net.freeze_depth == 6


# --- behind every block ---------------------------------------------------------------------


def test_what_is_pooled_behind_every_block_is_kept_in_a_folder_of_its_own_and_opened_again(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    found = Cache(EXACT, tmp_path).open(net, arrays, "digest", {13, EVERY}, "train")
    assert list(found) == [EVERY, 13]
    assert passes == [Pass((EVERY, 13), 0, [16, 16, 1])]
    group = tmp_path / key(net, arrays, "digest", "float32", "torch")
    expected = whole(group.name, 13) + [
        f"{group.name}/every_block/{name}" for name in ("activations.npy", "entry.json")
    ]
    assert left_in(tmp_path) == sorted(expected)
    assert found[EVERY].values.shape == (11, 3, sum(classifier.tap_widths(net.blocks, net.card)))
    np.testing.assert_array_equal(found[EVERY].values, direct(net, arrays, EVERY))
    again = Cache(EXACT, tmp_path).open(deepcopy(net), arrays, "digest", [EVERY, 13], "train")
    assert len(passes) == 1
    assert digests(again) == digests(found)


def test_it_is_computed_from_images_where_a_depth_is_there_already(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    cache = Cache(EXACT, tmp_path)
    cache.open(net, arrays, "digest", [6], "train")
    found = cache.open(net, arrays, "digest", [EVERY, 6], "train")
    assert [(made.depths, made.start) for made in passes] == [((6,), 0), ((EVERY,), 0)]
    np.testing.assert_array_equal(found[EVERY].values, direct(net, arrays, EVERY))


def test_where_not_all_fits_it_goes_before_any_depth(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    bytes_ = 33 * 4 * sum(classifier.tap_widths(net.blocks, net.card))
    assert set(Cache(within(bytes_ + 1000), tmp_path).open(net, arrays, "digest", {EVERY, 1, 6}, "train")) == {EVERY}


# --- the key --------------------------------------------------------------------------------


def move_a_weight(net: Net) -> None:
    with torch.no_grad():
        next(net.blocks[4].parameters()).view(-1)[0] += 1e-6


def move_a_statistic(net: Net) -> None:
    next(value for name, value in net.blocks[0].named_buffers() if "running_mean" in name)[0] += 1e-6


def test_the_key_is_of_what_the_values_depend_on(net: Net, arrays: Arrays) -> None:
    cards = [dataclasses.replace(CARD, **new) for new in ({"mean": [0.4] * 3}, {"std": [0.3] * 3}, {"resize": "crop"})]
    changed = []
    for change in (move_a_weight, move_a_statistic):
        changed.append(deepcopy(net))
        change(changed[-1])
    keys = [
        key(net, arrays, "digest", "float16", "torch"),
        key(net, arrays, "other", "float16", "torch"),
        key(net, arrays, "digest", "float32", "torch"),
        key(net, arrays, "digest", "float16", "onnxruntime"),
        key(net, draw_arrays(12), "digest", "float16", "torch"),
        *(key(build(card), arrays, "digest", "float16", "torch") for card in cards),
        *(key(other, arrays, "digest", "float16", "torch") for other in changed),
    ]
    assert len(set(keys)) == len(keys) == 10


def train_the_head(net: Net) -> None:
    nn.init.normal_(net.head.linear.weight)
    net.head.dropout.p = 0.7


def freeze_and_train(net: Net) -> None:
    net.freeze(5)
    net.train()


def lay_out_otherwise(net: Net) -> None:
    net.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("change", [train_the_head, freeze_and_train, lay_out_otherwise], ids=lambda c: c.__name__)
def test_the_key_is_of_nothing_else(net: Net, arrays: Arrays, change: Callable[[Net], object]) -> None:
    expected = key(net, arrays, "digest", "float16", "torch")
    change(net)
    assert key(net, arrays, "digest", "float16", "torch") == expected


def test_the_key_outlives_the_classifiers_life_on_disk(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    classifier.save(net, CARD, tmp_path)
    assert key(classifier.load(tmp_path)[0], arrays, "digest", "float16", "torch") == key(
        net, arrays, "digest", "float16", "torch"
    )


# --- budget and disk ------------------------------------------------------------------------


def within(bytes_: float) -> Activations:
    return EXACT.model_copy(update={"max_gb": bytes_ / 1e9})


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(1e6, {1, 3, 6, 13}), (200_000, {3, 6, 13}), (110_000, {6, 13}), (80_000, {13}), (30_000, {6}), (9_000, set())],
)
def test_the_deepest_that_fit_the_budget_are_kept_and_a_line_names_each_other(
    net: Net, arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: float, kept: set[int]
) -> None:
    found = Cache(within(budget), tmp_path).open(net, arrays, "digest", SIZES, "train")
    assert set(found) == kept
    assert {depth: kept.entry.bytes for depth, kept in found.items()} == {depth: SIZES[depth] for depth in kept}
    lines = [line for line in capsys.readouterr().out.splitlines() if "do not fit" in line]
    named = [int(line.split("behind depth ")[1].split()[0]) for line in lines]
    assert named == sorted(set(SIZES) - kept)
    assert all(line.startswith("train: the ") and "every epoch runs the frozen blocks" in line for line in lines)


def use(folder: Path, digest_time: Mapping[str, int]) -> None:
    """Say when the entries of a group were used."""
    for group, seconds in digest_time.items():
        for file in (folder / group).glob("*/entry.json"):
            os.utime(file, (seconds, seconds))


def test_what_was_used_longest_ago_makes_room(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    for digest in ("a", "b", "c"):
        Cache(EXACT, tmp_path).open(net, arrays, digest, [3], "train")
    groups = {digest: key(net, arrays, digest, "float32", "torch") for digest in "abcd"}
    use(tmp_path, {groups["a"]: 2000, groups["b"]: 1000, groups["c"]: 3000})
    Cache(within(3.2 * SIZES[3]), tmp_path).open(net, arrays, "d", [3], "train")
    assert left_in(tmp_path) == sorted(file for digest in "acd" for file in whole(groups[digest], 3))
    use(tmp_path, {groups["d"]: 4000})
    found = Cache(within(SIZES[6] + 1.2 * SIZES[3]), tmp_path).open(net, arrays, "b", [6], "train")
    assert left_in(tmp_path) == sorted([*whole(groups["b"], 6), *whole(groups["d"], 3)])
    np.testing.assert_array_equal(found[6].values, direct(net, arrays, 6))


def test_what_lies_behind_other_depths_of_the_same_key_stays(
    net: Net, arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Cache(EXACT, tmp_path).open(net, arrays, "digest", [3], "train")
    found = Cache(within(1.2 * SIZES[3]), tmp_path).open(net, arrays, "digest", [3, 6], "train")
    assert list(found) == [3]
    assert "behind depth 6 do not fit" in capsys.readouterr().out
    assert left_in(tmp_path) == whole(key(net, arrays, "digest", "float32", "torch"), 3)


def test_a_budget_that_was_lowered_below_what_is_there_leaves_out_the_rest(
    net: Net, arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Cache(EXACT, tmp_path).open(net, arrays, "digest", [3], "train")
    found = Cache(within(SIZES[3] / 2), tmp_path).open(net, arrays, "digest", [3, 6], "train")
    assert list(found) == [3]
    assert "behind depth 6 do not fit" in capsys.readouterr().out


@pytest.mark.parametrize("free", [activations.RESERVE + 1000, activations.RESERVE - 1, 0])
def test_too_little_free_disk_is_noticed_beforehand(
    net: Net,
    arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    passes: list[Pass],
    free: int,
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda _: usage(free))
    assert Cache(EXACT, tmp_path).open(net, arrays, "digest", [6], "train") == {}
    assert passes == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("train: the 0.0 GB behind depth 6 do not fit")
    assert f"{free / 1e9:.1f} GB of the disk are free" in lines[0]
    assert left_in(tmp_path) == []


def test_values_beyond_float16_are_not_kept_and_bfloat16_is_named(
    net: Net, arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        net.blocks[0][1].weight.mul_(1e7)
    half, brain = (EXACT.model_copy(update={"dtype": dtype}) for dtype in ("float16", "bfloat16"))
    assert Cache(half, tmp_path).open(net, arrays, "digest", [1, 3], "train") == {}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train: activations")]
    assert len(said) == 1
    assert "are not kept (values are beyond float16" in said[0]
    assert "bfloat16" in said[0]
    assert left_in(tmp_path) == []
    assert set(Cache(brain, tmp_path).open(net, arrays, "digest", [1, 3], "train")) == {1, 3}


# --- damage ---------------------------------------------------------------------------------


def truncate(entry: Path) -> None:
    os.truncate(entry / "activations.npy", stored.size(entry) - 100)


def flip(entry: Path) -> None:
    data = bytearray((entry / "activations.npy").read_bytes())
    data[len(data) // 2] ^= 64
    (entry / "activations.npy").write_bytes(data)


def lose_the_record(entry: Path) -> None:
    (entry / "entry.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, lose_the_record], ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_computed_again_and_equals_the_first(
    net: Net,
    arrays: Arrays,
    tmp_path: Path,
    passes: list[Pass],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    first = digests(Cache(EXACT, tmp_path).open(net, arrays, "digest", [3, 6], "train"))
    group = key(net, arrays, "digest", "float32", "torch")
    damage(tmp_path / group / "depth_06")
    again = Cache(EXACT, tmp_path).open(net, arrays, "digest", [3, 6], "train")
    assert f"{tmp_path / group / 'depth_06'} is damaged" in capsys.readouterr().out
    assert digests(again) == first
    assert {made.depths for made in passes[1:]} == {(6,)}
    assert left_in(tmp_path) == whole(group, 3, 6)


# --- continued from a shallower boundary ----------------------------------------------------


def test_a_deeper_depth_starts_from_a_shallower_one_and_is_the_same_either_way(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    alone = digests(Cache(EXACT, tmp_path / "alone").open(net, arrays, "digest", [9, 13], "train"))
    cache = Cache(EXACT, tmp_path / "continued")
    cache.open(net, arrays, "digest", [3, 6], "train")
    passes.clear()
    found = cache.open(net, arrays, "digest", [3, 6, 9, 13], "train")
    assert list(found) == [3, 6, 9, 13]
    assert [(one.depths, one.start) for one in passes] == [((9, 13), 6)]
    assert {depth: digest for depth, digest in digests(found).items() if depth > 6} == alone


@pytest.mark.usefixtures("translated_once")
@pytest.mark.parametrize(("dtype", "engine"), [("float16", "torch"), ("bfloat16", "torch"), ("float32", "onnxruntime")])
def test_what_is_rounded_or_fused_is_not_continued_from_and_so_the_same_either_way(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass], dtype: str, engine: str
) -> None:
    config = EXACT.model_copy(update={"dtype": dtype, "engine": engine})
    at_once = digests(Cache(config, tmp_path / "at once").open(net, arrays, "digest", [6, 9], "train"))
    cache = Cache(config, tmp_path / "one by one")
    cache.open(net, arrays, "digest", [6], "train")
    found = cache.open(net, arrays, "digest", [6, 9], "train")
    assert [(one.depths, one.start) for one in passes] == [((6, 9), 0), ((6,), 0), ((9,), 0)]
    assert digests(found) == at_once
    assert {kept.entry.engine for kept in found.values()} == {engine}


@pytest.mark.usefixtures("translated_once")
def test_what_another_engine_has_left_is_not_used(net: Net, arrays: Arrays, tmp_path: Path) -> None:
    """Else the numbers of a run would hang on the runs before it."""
    for engine in ("onnxruntime", "torch"):
        config = EXACT.model_copy(update={"engine": engine})
        found = Cache(config, tmp_path).open(net, arrays, "digest", [6], "train")
        assert found[6].entry.engine == engine
    np.testing.assert_array_equal(found[6].values, direct(net, arrays, 6))


@pytest.mark.usefixtures("translated_once")
def test_the_engine_is_chosen_by_all_that_is_to_come_and_not_by_what_is_there(
    net: Net, arrays: Arrays, tmp_path: Path
) -> None:
    config, val = EXACT.model_copy(update={"engine": "auto"}), draw_arrays(5, 1)
    for count, engine in ((38, "torch"), (10**9, "onnxruntime")):
        for name, part in (("train", arrays), ("val", val)):
            found = Cache(config, tmp_path).open(net, part, name, [3], name, count=count)
            assert found[3].entry.engine == engine


def test_a_deeper_boundary_does_not_help_a_shallower_one(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass]
) -> None:
    cache = Cache(EXACT, tmp_path)
    cache.open(net, arrays, "digest", [9], "train")
    found = cache.open(net, arrays, "digest", [6, 9], "train")
    assert [(one.depths, one.start) for one in passes] == [((9,), 0), ((6,), 0)]
    np.testing.assert_array_equal(found[6].values, direct(net, arrays, 6))


# --- other processes ------------------------------------------------------------------------


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """One that stands still in its second batch, holding the lock, until it is sent a line."""
    command = [sys.executable, __file__, "held", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        deadline = threading.Timer(120, process.kill)  # whoever waits in vain is not to wait for ever
        deadline.start()
        try:
            assert "computing\n" in iter(process.stdout.readline, "")  # reads on until it is said
            yield process
        finally:
            deadline.cancel()
            process.kill()


def test_a_process_killed_in_the_middle_is_followed_by_the_next(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass], capsys: pytest.CaptureFixture[str]
) -> None:
    group = key(net, arrays, "digest", "float32", "torch")
    with other_process(tmp_path) as process:
        assert left_in(tmp_path) == [f"{group}/.depth_{depth:02d}/activations.npy" for depth in (3, 6)]
        process.kill()
        process.wait()
    found = Cache(EXACT, tmp_path).open(net, arrays, "digest", [3, 6], "train")
    assert "waiting" not in capsys.readouterr().out
    assert passes == [Pass((3, 6), 0, [16, 16, 1])]
    np.testing.assert_array_equal(found[6].values, direct(net, arrays, 6))
    assert left_in(tmp_path) == whole(group, 3, 6)


def test_of_two_processes_one_computes_and_the_other_waits_for_it(
    net: Net, arrays: Arrays, tmp_path: Path, passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with other_process(tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def let_it_go_on(line: str, **_: Any) -> None:
            said.append(line)
            print("go on", file=process.stdin, flush=True)

        monkeypatch.setattr(activations, "print", let_it_go_on, raising=False)
        found = Cache(EXACT, tmp_path).open(net, arrays, "digest", [3, 6], "val")
        its_own = json.loads(process.stdout.read().splitlines()[-1])
        assert process.wait() == 0
    assert said == ["val: waiting for another process that computes the same activations"]
    assert passes == []
    assert its_own == {str(depth): digest for depth, digest in digests(found).items()}
    np.testing.assert_array_equal(found[3].values, direct(net, arrays, 3))


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A file system of two megabytes, in a mount namespace that ends with the process."""
    mount = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" "$3" full "$1"'
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command = [*alone, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, said, told = done.stdout.splitlines()
    assert said == "train: activations are not kept (the disk is full): every epoch runs the frozen blocks"
    assert json.loads(told) == {"found": [], "started": True, "finished": False, "left": []}


def run_held(folder: Path) -> None:
    """In the second batch, say so and wait for a line."""

    def choose(prefix: Prefix, name: engines.Runner) -> Chosen:
        chosen, batches = engines.choose(prefix, name), iter(range(99))

        def run(batch: Array) -> list[np.ndarray]:
            if next(batches) == 1:
                print("\ncomputing", flush=True)
                input()
            return chosen.run(batch)

        return dataclasses.replace(chosen, run=run)

    activations.choose = choose
    found = Cache(EXACT, folder).open(build(), draw_arrays(), "digest", [3, 6], "train")
    print("\n" + json.dumps(digests(found)))


def run_full(folder: Path) -> None:
    """With room for all but the last images of depth 1, and a look at the free disk that sees plenty."""
    activations.RESERVE = -(1 << 40)
    arrays = draw_arrays(count=48)
    with pytest.MonkeyPatch.context() as patch:
        made = record_passes(patch)
        found = Cache(EXACT, folder).open(build(), arrays, "digest", [1, 3], "train")
    batches = len(made[0].batches)
    told = {"found": list(found), "started": batches > 1, "finished": batches == 9, "left": left_in(folder)}
    print(json.dumps(told))


if __name__ == "__main__":
    {"held": run_held, "full": run_full}[sys.argv[1]](Path(sys.argv[2]))
