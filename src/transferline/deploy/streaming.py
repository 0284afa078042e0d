"""Answers for any number of images, in their order, at constant memory: decoded and classified in several threads."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from transferline.data import images
from transferline.data.images import ImageError, Pixels
from transferline.deploy import answers
from transferline.deploy.answers import Answer
from transferline.deploy.inputs import Input
from transferline.deploy.predictor import Predictor

Outcome = Answer | ImageError
Sink = Callable[[Input, Outcome], None]

_CHANNELS = 3
_BATCHES_AHEAD = 8  # that many sizes of images may take turns and still fill batches
_PIXELS_AHEAD = 16_000_000  # for each thread: a photo of a telephone


@dataclass(frozen=True)
class Plan:
    """How the work is shared out.

    Attributes:
        batch_size: images of one size that are classified at once.
        workers: threads, each of which decodes or classifies, whatever is due.
        runs: batches that are classified at once, each in a thread of its own.
    """

    batch_size: int
    workers: int
    runs: int

    @property
    def ahead(self) -> int:
        """Images that have been begun and not handed out, at most."""
        return _BATCHES_AHEAD * self.batch_size + 4 * self.workers

    @property
    def pixels(self) -> int:
        """No image is begun while those that are decoded and not yet classified have as many.

        What is under way then still comes in: an image a thread.
        """
        return _PIXELS_AHEAD * self.workers


def answered(predictor: Predictor, inputs: Iterable[Input], plan: Plan) -> Generator[tuple[Input, Outcome]]:
    """Each input with its answer, or with the reason why there is none, in their order.

    Inputs are taken as they are needed, in a thread, never two at once. Batches are of images of one size; where
    these are mixed, one waits for others of its size as long as the plan lets others be begun. To end early, close
    the generator: it returns when what the threads are at is done.

    Raises:
        UserError: what the predictor raises.
    """
    stream = _Stream(predictor, iter(inputs), plan)
    threads = [threading.Thread(target=stream.work, daemon=True) for _ in range(plan.workers)]
    for thread in threads:
        thread.start()
    try:
        yield from stream
    finally:
        stream.close()
        for thread in threads:
            thread.join()


@dataclass(eq=False)
class _Place:
    """An input in the window of those that are under way."""

    number: int  # of those before it
    given: Input
    pixels: Pixels | None = None
    outcome: Outcome | None = None


class _Stream:
    """The window: inputs wait to be decoded, then for a batch of their size, then until those before are answered."""

    def __init__(self, predictor: Predictor, inputs: Iterator[Input], plan: Plan) -> None:
        self._predictor, self._inputs, self._plan = predictor, inputs, plan
        lock = threading.Lock()  # of everything below
        self._due, self._answered = threading.Condition(lock), threading.Condition(lock)
        self._numbers = itertools.count()
        self._window: deque[_Place] = deque()
        self._decoded: dict[tuple[int, ...], deque[_Place]] = {}  # that wait for a batch, by size, the oldest first
        self._pixels = self._running = 0
        self._ended = self._closed = False
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[Input, Outcome]]:
        while True:
            with self._answered:
                self._answered.wait_for(self._can_hand_out)
                if self._failure is not None:
                    raise self._failure
                if not self._window:
                    return
                place = self._window.popleft()
                self._due.notify()
            assert place.outcome is not None
            yield place.given, place.outcome

    def close(self) -> None:
        with self._due:
            self._closed = True
            self._due.notify_all()

    def work(self) -> None:
        """What a thread does until the stream is closed."""
        try:
            while job := self._job():
                job()
        except BaseException as error:
            with self._answered:
                self._failure = error
                self._answered.notify()

    def _can_hand_out(self) -> bool:
        if self._failure is not None or not self._window:
            return self._failure is not None or self._ended
        return self._window[0].outcome is not None

    def _job(self) -> Callable[[], None] | None:
        """A whole batch goes first, then a further image; where there is no room for one, what has waited longest."""
        with self._due:
            while not self._closed:
                more = not self._ended and len(self._window) < self._plan.ahead and self._pixels < self._plan.pixels
                slack = more or (not self._ended and self._can_hand_out())  # which will make room
                if batch := self._batch(whole=slack):
                    return partial(self._classify, batch)
                if not more:
                    self._due.wait()
                elif (given := next(self._inputs, None)) is not None:
                    self._window.append(_Place(next(self._numbers), given))
                    return partial(self._decode, self._window[-1])
                else:
                    self._ended = True
                    self._answered.notify()
        return None

    def _batch(self, *, whole: bool) -> list[_Place]:
        """Images to classify now, if any: of the size of which one has waited longest; a whole batch or less."""
        if self._running == self._plan.runs:
            return []
        size = self._plan.batch_size
        groups = [each for each in self._decoded.values() if len(each) >= size]
        if not groups and not whole:
            groups = list(self._decoded.values())
        if not groups:
            return []
        group = min(groups, key=lambda each: each[0].number)
        batch = [group.popleft() for _ in range(min(size, len(group)))]
        if not group:
            del self._decoded[_pixels(batch[0]).shape]
        self._running += 1
        return batch

    def _decode(self, place: _Place) -> None:
        source = place.given.source
        try:
            pixels = images.decode(_readable(source), max_pixels=images.MAX_PIXELS)
        except ImageError as error:
            with self._answered:
                place.outcome = error
                self._answered.notify()
            return
        with self._due:
            place.pixels = pixels
            self._pixels += pixels.size // _CHANNELS
            self._decoded.setdefault(pixels.shape, deque()).append(place)

    def _classify(self, batch: list[_Place]) -> None:
        first = _pixels(batch[0])
        pixels = first[np.newaxis] if len(batch) == 1 else np.stack([_pixels(place) for place in batch])
        found = self._predictor.predict(pixels)
        outcomes = [answers.answer(self._predictor, row) for row in found]
        with self._due:
            for place, outcome in zip(batch, outcomes, strict=True):
                place.pixels, place.outcome = None, outcome
            self._running -= 1
            self._pixels -= pixels.size // _CHANNELS
            self._due.notify_all()
            self._answered.notify()


def _readable(source: Path | bytes | ImageError) -> Path | bytes:
    if isinstance(source, ImageError):
        raise source
    return source


def _pixels(place: _Place) -> Pixels:
    assert place.pixels is not None
    return place.pixels
