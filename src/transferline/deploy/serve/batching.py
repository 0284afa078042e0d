"""Concurrent requests -> batches: what came while the last batch ran is the next one."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Limits(NamedTuple):
    """Of a batch."""

    images: int
    pixels: int  # of several images
    wait: float  # of an image for others, in seconds
    runs: int = 1  # batches at once


@dataclass(eq=False)
class _Waiting:
    pixels: Pixels
    answer: "asyncio.Future[Probabilities]"
    since: float = field(default_factory=time.perf_counter)

    @property
    def size(self) -> int:
        return int(self.pixels.shape[0] * self.pixels.shape[1])


class Batcher:
    """Threads run the model; images that wait meanwhile go together, those of one size in a batch.

    Each image is announced when it has arrived, and then either submitted or withdrawn. With nothing to do, the
    batcher waits for others only while some are announced, and no longer than the limit: a lone client never waits.
    All its methods belong to one event loop.

    Args:
        predict: uint8 [B, H, W, 3] -> float32 [B, C]; called in the threads.
        limits: of a batch.
        ran: told of each batch: the seconds that its images waited, and the seconds that the model took.
    """

    def __init__(
        self,
        predict: Callable[[Pixels], Probabilities],
        limits: Limits,
        ran: Callable[[list[float], float], None] = lambda waited, took: None,
    ) -> None:
        self._predict, self._limits, self._ran = predict, limits, ran
        self._threads = ThreadPoolExecutor(limits.runs, "inference")
        self._waiting: deque[_Waiting] = deque()
        self._running = 0  # batches
        self._timer: asyncio.TimerHandle | None = None
        self._coming = 0  # images that are announced

    @property
    def depth(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    def announce(self) -> None:
        """An image is about to be submitted."""
        self._coming += 1

    def withdraw(self) -> None:
        """An image that was announced will not be submitted."""
        self._coming -= 1
        self._consider()

    async def submit(self, pixels: Pixels) -> Probabilities:
        """Probabilities float32 [C] of an announced image uint8 [H, W, 3]. Cancelled, it takes no place any more.

        Raises:
            Exception: what `predict` raises on this image alone.
        """
        waiting = _Waiting(pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.withdraw()
        try:
            return await waiting.answer
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def close(self) -> None:
        """End the threads, once they have done what they do."""
        self._threads.shutdown()

    def _consider(self) -> None:
        """Begin a batch, unless enough run, none waits, or the first may still wait for others."""
        if self._running == self._limits.runs or not self._waiting:
            return
        left = self._waiting[0].since + self._limits.wait - time.perf_counter()
        if self._coming and len(self._waiting) < self._limits.images and left > 0:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(left, self._due)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._begin(self._take())

    def _due(self) -> None:
        self._timer = None
        self._consider()

    def _take(self) -> list[_Waiting]:
        """The first, and those after it that have its size and fit."""
        first = self._waiting[0]
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        most = max(1, min(self._limits.images, self._limits.pixels // first.size))
        for each in self._waiting:
            fits = len(taken) < most and each.pixels.shape == first.pixels.shape
            (taken if fits else left).append(each)
        self._waiting = left
        return taken

    def _begin(self, batch: list[_Waiting]) -> None:
        self._running += 1
        began = time.perf_counter()
        run = asyncio.get_running_loop().run_in_executor(self._threads, self._run, [each.pixels for each in batch])
        run.add_done_callback(lambda done: self._end(batch, began, done))

    def _run(self, images: list[Pixels]) -> tuple[list[Probabilities | Exception], float]:
        """In a thread. Where a batch fails, each of its images is tried alone: none fails for its neighbour."""
        began = time.perf_counter()
        try:
            found: list[Probabilities | Exception] = list(self._predict(_stacked(images)))
        except Exception as error:
            found = [error] if len(images) == 1 else [self._run([image])[0][0] for image in images]
        return found, time.perf_counter() - began

    def _end(
        self,
        batch: list[_Waiting],
        began: float,
        done: "asyncio.Future[tuple[list[Probabilities | Exception], float]]",
    ) -> None:
        self._running -= 1
        self._consider()  # first of all the next batch
        if done.cancelled():
            return
        found, took = done.result()
        for each, answer in zip(batch, found, strict=True):
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
        self._ran([began - each.since for each in batch], took)


def _stacked(images: list[Pixels]) -> Pixels:
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)
