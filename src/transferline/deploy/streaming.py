"""Answers for any number of images, in their order, at constant memory: decoded and classified in several threads."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

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
    """The window: inputs wait to be decoded, then for a batch of their size, then until those before are answered.

    Who takes the answers never has the lock, and waits at a queue: an interrupt of the main thread (Ctrl-C) while it
    enters a threading.Condition can leave that locked for good, and all threads waiting.
    """

    def __init__(self, predictor: Predictor, inputs: Iterator[Input], plan: Plan) -> None:
        self._predictor, self._inputs, self._plan = predictor, inputs, plan
        self._found: SimpleQueue[tuple[Input, Outcome] | BaseException | None] = SimpleQueue()  # None: that is all
        self._calls: SimpleQueue[None] = SimpleQueue()  # each has a thread that waits look for work again
        self._taken, self._closed = 0, False  # by who takes the answers
        self._lock = threading.Lock()  # of everything below
        self._begun = 0
        self._window: deque[_Place] = deque()
        self._decoded: dict[tuple[int, ...], deque[_Place]] = {}  # that wait for a batch, by size, the oldest first
        self._pixels = self._running = 0
        self._ended = False

    def __iter__(self) -> Iterator[tuple[Input, Outcome]]:
        while (found := self._found.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            self._taken += 1
            self._call(1)
            yield found

    def close(self) -> None:
        self._closed = True
        self._call(self._plan.workers)

    def work(self) -> None:
        """What a thread does until the stream is closed."""
        try:
            while job := self._job():
                job()
        except BaseException as error:
            self._found.put(error)

    def _call(self, threads: int) -> None:
        """More calls than there are threads say nothing."""
        for _ in range(min(threads, self._plan.workers - self._calls.qsize())):
            self._calls.put(None)

    def _job(self) -> Callable[[], None] | None:
        while not self._closed:
            with self._lock:
                if job := self._due():
                    return job
            self._calls.get()
        return None

    def _due(self) -> Callable[[], None] | None:
        """A whole batch goes first, then a further image; where there is no room for one, what has waited longest."""
        under_way = self._begun - self._taken
        more = not self._ended and under_way < self._plan.ahead and self._pixels < self._plan.pixels
        slack = more or (not self._ended and under_way > len(self._window))  # for those to be taken make room
        if batch := self._batch(whole=slack):
            return partial(self._classify, batch)
        if not more:
            return None
        if (given := next(self._inputs, None)) is not None:
            self._window.append(_Place(self._begun, given))
            self._begun += 1
            return partial(self._decode, self._window[-1])
        self._ended = True
        self._hand_out()
        self._call(self._plan.workers)  # what has waited for a whole batch waits no longer
        return self._due()

    def _hand_out(self) -> None:
        """What is answered, and so are those before."""
        while self._window and (outcome := self._window[0].outcome) is not None:
            self._found.put((self._window.popleft().given, outcome))
        if self._ended and not self._window:
            self._found.put(None)

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
            with self._lock:
                place.outcome = error
                self._hand_out()
            return
        with self._lock:
            place.pixels = pixels
            self._pixels += pixels.size // _CHANNELS
            self._decoded.setdefault(pixels.shape, deque()).append(place)

    def _classify(self, batch: list[_Place]) -> None:
        first = _pixels(batch[0])
        pixels = first[np.newaxis] if len(batch) == 1 else np.stack([_pixels(place) for place in batch])
        found = self._predictor.predict(pixels)
        outcomes = [answers.answer(self._predictor, row) for row in found]
        with self._lock:
            for place, outcome in zip(batch, outcomes, strict=True):
                place.pixels, place.outcome = None, outcome
            self._running -= 1
            self._pixels -= pixels.size // _CHANNELS
            self._hand_out()
        self._call(self._plan.workers)


def _readable(source: Path | bytes | ImageError) -> Path | bytes:
    if isinstance(source, ImageError):
        raise source
    return source


def _pixels(place: _Place) -> Pixels:
    assert place.pixels is not None
    return place.pixels
