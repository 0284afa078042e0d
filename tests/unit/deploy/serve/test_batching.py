"""What goes together into a batch, and when."""

import asyncio
import threading

import numpy as np
import pytest

from tests.unit.deploy.serve.conftest import in_loop, until
from transferline import cores
from transferline.deploy.serve.batching import Batcher, Limits
from transferline.deploy.serve.settings import Settings

NEVER = 3600.0  # seconds that no test waits
UNLUCKY = 99


class Model:
    """Answers with each image's first value; runs when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        assert self.open.wait(60)
        if UNLUCKY in self.batches[-1]:
            raise RuntimeError("an image that cannot be run")
        return pixels[:, 0, 0, :1].astype(np.float32)


def image(value: int, height: int = 2, width: int = 3) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def batcher(model: Model, images: int = 4, pixels: int = 1000, wait: float = 0.0) -> Batcher:
    return Batcher(model, Limits(images, pixels, wait))


def submit(batches: Batcher, pixels: np.ndarray) -> "asyncio.Task[np.ndarray]":
    batches.announce()
    return asyncio.ensure_future(batches.submit(pixels))


@in_loop
async def test_each_image_has_its_own_answer() -> None:
    batches = batcher(Model())
    found = await asyncio.gather(*(submit(batches, image(value)) for value in range(40)))
    assert [row.tolist() for row in found] == [[value] for value in range(40)]


@in_loop
async def test_a_lone_image_does_not_wait_for_others() -> None:
    batches = batcher(Model(), wait=NEVER)
    assert (await asyncio.wait_for(submit(batches, image(7)), 60)).tolist() == [7]


@in_loop
async def test_what_comes_while_the_model_runs_is_its_next_batch() -> None:
    model = Model()
    batches = batcher(model)
    model.open.clear()
    first = submit(batches, image(0))
    await until(lambda: model.batches)
    others = [submit(batches, image(value)) for value in range(1, 7)]
    await until(lambda: batches.depth == 6)
    model.open.set()
    await asyncio.gather(first, *others)
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]


@in_loop
async def test_as_many_batches_run_at_once_as_may() -> None:
    model = Model()
    batches = Batcher(model, Limits(images=2, pixels=1000, wait=0.0, runs=2))
    model.open.clear()
    tasks = [submit(batches, image(value)) for value in range(7)]
    await until(lambda: len(model.batches) == 2)
    assert batches.depth == 7 - sum(map(len, model.batches))
    model.open.set()
    found = await asyncio.gather(*tasks)
    assert [row.tolist() for row in found] == [[value] for value in range(7)]
    assert sorted(value for batch in model.batches for value in batch) == list(range(7))


@in_loop
async def test_only_images_of_one_size_go_together_and_the_oldest_goes_first() -> None:
    model = Model()
    batches = batcher(model)
    model.open.clear()
    tasks = [submit(batches, image(0))]
    await until(lambda: model.batches)
    tasks += [submit(batches, image(value, height=2 + value % 2)) for value in range(1, 6)]
    await until(lambda: batches.depth == 5)
    model.open.set()
    await asyncio.gather(*tasks)
    assert model.batches == [[0], [1, 3, 5], [2, 4]]


@in_loop
async def test_pixels_bound_a_batch_but_never_an_image() -> None:
    model = Model()
    batches = batcher(model, pixels=13)  # two images of six pixels
    model.open.clear()
    tasks = [submit(batches, image(0))]
    await until(lambda: model.batches)
    tasks += [submit(batches, image(value)) for value in (1, 2, 3)] + [submit(batches, image(4, 10, 10))]
    await until(lambda: batches.depth == 4)
    model.open.set()
    await asyncio.gather(*tasks)
    assert model.batches == [[0], [1, 2], [3], [4]]


@in_loop
async def test_an_idle_model_waits_for_those_that_are_announced() -> None:
    model = Model()
    batches = batcher(model, wait=NEVER)
    batches.announce()
    first = submit(batches, image(1))
    await until(lambda: batches.depth == 1)
    assert model.batches == []
    second = asyncio.ensure_future(batches.submit(image(2)))
    await asyncio.gather(first, second)
    assert model.batches == [[1, 2]]


@in_loop
async def test_it_does_not_wait_for_one_that_is_withdrawn_nor_with_a_full_batch_nor_for_ever() -> None:
    model = Model()
    batches = batcher(model, images=2, wait=NEVER)
    batches.announce()
    first = submit(batches, image(1))
    await until(lambda: batches.depth == 1)
    batches.withdraw()
    await asyncio.wait_for(first, 60)
    batches.announce()
    await asyncio.wait_for(asyncio.gather(submit(batches, image(2)), submit(batches, image(3))), 60)
    assert model.batches == [[1], [2, 3]]
    brief = batcher(model, wait=0.01)
    brief.announce()
    await asyncio.wait_for(submit(brief, image(4)), 60)


@in_loop
async def test_a_cancelled_image_takes_no_place_any_more() -> None:
    model = Model()
    batches = batcher(model)
    model.open.clear()
    first, second, third = (submit(batches, image(value)) for value in range(3))
    await until(lambda: model.batches and batches.depth == 2)
    second.cancel()
    first.cancel()  # which runs
    await until(lambda: batches.depth == 1)
    model.open.set()
    await third
    assert model.batches == [[0], [2]]


@in_loop
async def test_an_image_that_fails_does_not_fail_its_neighbours() -> None:
    model = Model()
    batches = batcher(model)
    model.open.clear()
    first = submit(batches, image(0))
    await until(lambda: model.batches)
    bad, good = submit(batches, image(UNLUCKY)), submit(batches, image(14))
    await until(lambda: batches.depth == 2)
    model.open.set()
    assert (await good).tolist() == [14]
    with pytest.raises(RuntimeError, match="cannot be run"):
        await bad
    await first


@in_loop
async def test_it_tells_how_long_images_waited_and_the_model_ran() -> None:
    told: list[tuple[list[float], float]] = []
    batches = Batcher(Model(), Limits(4, 100, 0.0), lambda waited, took: told.append((waited, took)))
    await submit(batches, image(1))
    ((waited, took),) = told
    assert len(waited) == 1
    assert min(waited) >= 0
    assert took > 0


@pytest.mark.parametrize(
    ("device", "usable", "runs", "images"), [("cpu", 1, 1, 1), ("cpu", 2, 2, 1), ("cpu", 20, 8, 3), ("cuda", 20, 1, 32)]
)
def test_each_core_has_an_image_and_a_gpu_has_batches(monkeypatch, device, usable, runs, images) -> None:
    monkeypatch.setattr(cores, "usable", lambda: usable)
    assert (Settings().runs_of(device), Settings().batch_of(device)) == (runs, images)
    assert (Settings(runs=3).runs_of(device), Settings(max_batch=7).batch_of(device)) == (3, 7)
