"""Activations on disk: whole or not there, and what is read is what was written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from transferline.model import stored
from transferline.model.stored import Entry, UnfitError, Writer, open_entry

SHAPE = (6, 2, 4, 3, 3)
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0.0}  # half a unit in the last place, at most


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "key" / "depth_03"


def drawn(seed: int = 0) -> np.ndarray:
    """float32 [12, 4, 3, 3]: all views of all rows."""
    values: np.ndarray = np.random.default_rng(seed).normal(0, 5, (12, *SHAPE[2:])).astype(np.float32)
    return values


def write(folder: Path, values: np.ndarray, dtype: str = "float32") -> None:
    with Writer(folder, Entry(3, dtype, SHAPE)) as writer:
        for start in range(0, len(values), 5):  # pieces that cut through a row
            writer.write(values[start : start + 5])
        writer.finish("torch")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_read_is_what_was_written_to_the_dtypes_rounding(folder: Path, dtype: str) -> None:
    values = drawn()
    write(folder, values, dtype)
    found = open_entry(folder)
    assert found is not None
    assert found.values.shape == SHAPE
    assert (found.entry.depth, found.entry.dtype, found.entry.engine) == (3, dtype, "torch")
    rows, views = np.array([5, 0, 3, 3]), np.array([0, 1, 0, 1])
    taken = found.take(rows, views)
    assert taken.shape == (4, *SHAPE[2:])
    assert taken.dtype == getattr(torch, dtype)
    expected = torch.from_numpy(values.reshape(SHAPE)[rows, views])
    torch.testing.assert_close(taken.float(), expected, rtol=ROUNDING[dtype], atol=1e-7 if dtype == "float16" else 0)


def test_what_is_taken_is_a_copy_that_may_be_written_to(folder: Path) -> None:
    write(folder, drawn())
    found = open_entry(folder)
    assert found is not None
    found.take(np.array([0]), np.array([0])).zero_()
    np.testing.assert_array_equal(found.values.reshape(drawn().shape), drawn())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_size_known_beforehand_is_that_of_the_values(folder: Path, dtype: str) -> None:
    write(folder, drawn(), dtype)
    header = 128
    assert stored.size(folder) == Entry(3, dtype, SHAPE).bytes + header


def test_nothing_has_the_final_name_before_the_end(folder: Path) -> None:
    with Writer(folder, Entry(3, "float32", SHAPE)) as writer:
        writer.write(drawn())
        assert not folder.exists()
        assert stored.entries(folder.parent.parent) == []
        writer.finish("torch")
        assert folder.exists()
    assert stored.entries(folder.parent.parent) == [folder]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_block_that_fails_leaves_nothing(folder: Path) -> None:
    def interrupted() -> None:
        with Writer(folder, Entry(3, "float32", SHAPE)) as writer:
            writer.write(drawn())
            assert len(list(folder.parent.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(folder.parent.iterdir()) == []


def test_what_a_killed_writer_left_is_taken_away_by_the_next(folder: Path) -> None:
    killed = Writer(folder, Entry(3, "float32", SHAPE))
    killed.__enter__()
    killed.write(drawn(seed=1))
    (killed.partial / "more").write_text("of it")
    assert killed.partial.exists()
    write(folder, drawn())
    killed.stream.close()
    assert list(folder.parent.iterdir()) == [folder]
    assert sorted(file.name for file in folder.iterdir()) == ["activations.npy", "entry.json"]
    found = open_entry(folder)
    assert found is not None
    np.testing.assert_array_equal(found.values.reshape(drawn().shape), drawn())


def truncate(folder: Path) -> None:
    os.truncate(folder / "activations.npy", stored.size(folder) - 1)


def cut_to_nothing(folder: Path) -> None:
    os.truncate(folder / "activations.npy", 0)


def flip(folder: Path) -> None:
    data = bytearray((folder / "activations.npy").read_bytes())
    data[-7] ^= 1
    (folder / "activations.npy").write_bytes(data)


def lose_the_values(folder: Path) -> None:
    (folder / "activations.npy").unlink()


def lose_the_entry(folder: Path) -> None:
    (folder / "entry.json").unlink()


def garble_the_entry(folder: Path) -> None:
    (folder / "entry.json").write_text('{"depth": 3, ')


def make_the_entry_no_object(folder: Path) -> None:
    (folder / "entry.json").write_text("[3]\n")


def add_an_unknown_key(folder: Path) -> None:
    change(folder, colour="blue")


def name_an_unknown_dtype(folder: Path) -> None:
    change(folder, dtype="float8")


def claim_another_shape(folder: Path) -> None:
    change(folder, shape=[12, *SHAPE[2:]])


def change(folder: Path, **values: object) -> None:
    known = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps(known | values))


DAMAGE = [
    truncate,
    cut_to_nothing,
    flip,
    lose_the_values,
    lose_the_entry,
    garble_the_entry,
    make_the_entry_no_object,
    add_an_unknown_key,
    name_an_unknown_dtype,
    claim_another_shape,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_removed_with_a_line_and_can_be_written_again(
    folder: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, drawn())
    damage(folder)
    assert open_entry(folder) is None
    assert capsys.readouterr().out == f"{folder} is damaged: it is computed again\n"
    assert not folder.exists()
    write(folder, drawn())
    assert open_entry(folder) is not None


def test_no_entry_is_no_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_entry(folder) is None
    assert capsys.readouterr().out == ""


def test_the_checksum_is_compared_unless_told_otherwise(folder: Path) -> None:
    write(folder, drawn())
    flip(folder)
    assert open_entry(folder, check=False) is not None
    assert open_entry(folder) is None


def test_values_beyond_float16_are_refused_and_bfloat16_holds_them(folder: Path) -> None:
    large = drawn()
    large[7, 2, 1, 1] = 1e6
    with pytest.raises(UnfitError, match=r"beyond float16 .*bfloat16"):
        write(folder, large, "float16")
    assert list(folder.parent.iterdir()) == []
    write(folder, large, "bfloat16")
    found = open_entry(folder)
    assert found is not None
    assert float(found.take(np.array([3]), np.array([1]))[0, 2, 1, 1]) == pytest.approx(1e6, rel=2**-8)


def test_entries_are_ordered_by_their_last_use_and_opening_is_a_use(folder: Path) -> None:
    places = [folder.with_name(f"depth_{depth:02d}") for depth in range(3)]
    for index, place in enumerate(places):
        write(place, drawn())
        os.utime(place / "entry.json", (1000 + index, 1000 + index))
    assert stored.entries(folder.parent.parent) == places
    assert open_entry(places[0]) is not None
    assert (places[0] / "entry.json").stat().st_mtime > 1002
    assert stored.entries(folder.parent.parent) == [places[1], places[2], places[0]]


def test_a_folder_just_evicted_by_another_process_has_no_bytes(folder: Path) -> None:
    assert stored.size(folder) == 0
