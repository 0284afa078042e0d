"""The engine of predict: order, batches, bounds on what is under way, and how it ends."""

import io
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from PIL import Image

from transferline.data import images
from transferline.data.images import ImageError
from transferline.deploy import streaming
from transferline.deploy.inputs import Input
from transferline.deploy.streaming import Plan
from transferline.errors import UserError

SIZES = [(4, 6), (7, 3), (5, 5)]  # height, width


class Fake:
    """Tells an image by its first pixel, which is its number; what is called at each batch may wait or raise."""

    classes = ("a", "b")
    thresholds = None

    def __init__(self, each: Callable[[int], object] = lambda _: None) -> None:
        self.each, self.lock = each, threading.Lock()
        self.shapes: list[tuple[int, ...]] = []
        self.running = self.most = 0

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        with self.lock:
            self.shapes.append(pixels.shape)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self.each(len(self.shapes))
        finally:
            with self.lock:
                self.running -= 1
        numbers = pixels[:, 0, 0, :2].astype(np.float32) @ np.array([1, 256], dtype=np.float32)
        return np.stack([numbers, -numbers], axis=1)


def given(number: int, size: tuple[int, int] = SIZES[0]) -> Input:
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[0, 0] = (number % 256, number // 256, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Input(str(number), stream.getvalue())


def answered(predictor: Fake, inputs: object, plan: Plan) -> list[tuple[str, int | str]]:
    """Names, with the number that the answer tells or with the reason."""
    found = streaming.answered(predictor, inputs, plan)
    return [(one.name, str(out) if isinstance(out, ImageError) else round(out.ranked[0][1])) for one, out in found]


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before  # where those of other tests may have ended meanwhile


@pytest.mark.parametrize("plan", [Plan(1, 1, 1), Plan(1, 3, 2), Plan(4, 3, 1), Plan(8, 4, 4)])
def test_answers_come_in_order_whatever_the_sizes_and_bad_images_in_their_place(plan: Plan) -> None:
    rng = np.random.default_rng(0)
    inputs = [given(number, SIZES[rng.integers(3)]) for number in range(200)]
    for number in (0, 57, 58, 130, 199):
        inputs[number] = Input(str(number), b"no image")
    inputs[77] = Input("77", Path("missing.png"))
    inputs[78] = Input("78", ImageError("unreadable: Permission denied"))
    predictor = Fake(lambda count: time.sleep(0.002 * (count % 3)))
    bad = dict.fromkeys((0, 57, 58, 130, 199), "not an image")
    bad |= {77: "unreadable: No such file or directory", 78: "unreadable: Permission denied"}
    assert answered(predictor, iter(inputs), plan) == [(str(n), bad.get(n, n)) for n in range(200)]
    assert Counter(shape[1:3] for shape in predictor.shapes for _ in range(shape[0])) == Counter(
        Image.open(io.BytesIO(one.source)).size[::-1] for n, one in enumerate(inputs) if n not in bad
    )
    assert max(shape[0] for shape in predictor.shapes) <= plan.batch_size
    assert predictor.most <= plan.runs


@pytest.mark.parametrize("sizes", [1, 3])
def test_batches_are_filled_but_for_the_last(sizes: int) -> None:
    """Where sizes take turns, too. One thread, since several do not wait for each other: they take what there is."""
    predictor = Fake()
    answered(predictor, (given(number, SIZES[number % sizes]) for number in range(484)), Plan(16, 1, 1))
    assert [shape[0] for shape in predictor.shapes[:27]] == [16] * 27
    assert sum(shape[0] for shape in predictor.shapes) == 484


def test_nothing_in_gives_nothing_out() -> None:
    assert answered(Fake(), iter(()), Plan(4, 2, 1)) == []


@pytest.mark.parametrize("plan", [Plan(1, 3, 2), Plan(4, 3, 1)])
def test_what_is_under_way_is_bounded_by_count(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model, and one who takes answers slowly: neither lets decoded images or answers pile up."""
    lock, taken, waiting, most = threading.Lock(), itertools.count(1), 0, 0
    begun = handed = 0
    decode = images.decode

    def counted(*source: bytes, **limits: int) -> np.ndarray:
        nonlocal waiting, most
        pixels = decode(*source, **limits)
        with lock:
            waiting += 1
            most = max(most, waiting)
        return pixels

    class Slow(Fake):
        def predict(self, pixels: np.ndarray) -> np.ndarray:
            nonlocal waiting
            time.sleep(0.001)
            with lock:
                waiting -= len(pixels)
            return super().predict(pixels)

    def endless() -> Iterator[Input]:
        nonlocal begun
        for begun in taken:
            yield given(begun, SIZES[begun % 3])

    monkeypatch.setattr(images, "decode", counted)
    with closing(streaming.answered(Slow(), endless(), plan)) as stream:
        for handed, _ in enumerate(itertools.islice(stream, 150), 1):
            assert begun - handed <= plan.ahead
        time.sleep(0.1)  # in which nothing is taken: the window fills, and no more
        assert begun - handed <= plan.ahead
    assert 0 < most <= plan.ahead


def test_what_is_under_way_is_bounded_by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PIXELS_AHEAD", 100)
    plan, held, most, lock = Plan(32, 3, 1), 0, 0, threading.Lock()  # a window of 268 images of 25 pixels
    decode = images.decode

    def counted(*source: bytes, **limits: int) -> np.ndarray:
        nonlocal held, most
        pixels = decode(*source, **limits)
        with lock:
            held += 25
            most = max(most, held)
        return pixels

    class Counting(Fake):
        def predict(self, pixels: np.ndarray) -> np.ndarray:
            nonlocal held
            found = super().predict(pixels)
            with lock:
                held -= 25 * len(pixels)
            return found

    monkeypatch.setattr(images, "decode", counted)
    found = answered(Counting(), (given(number, (5, 5)) for number in range(200)), plan)
    assert found == [(str(number), number) for number in range(200)]
    assert 100 < most <= 3 * 100 + 3 * 25


def test_who_stops_early_has_all_threads_ended() -> None:
    """As the fixture sees: after every test here."""
    with closing(streaming.answered(Fake(), map(given, itertools.count()), Plan(4, 3, 2))) as stream:
        assert [one.name for one, _ in itertools.islice(stream, 5)] == list("01234")


def test_an_interrupt_at_any_moment_ends_it() -> None:
    """As Ctrl-C does: at any call and return of who takes the answers."""
    inputs, moments = [given(number) for number in range(6)], itertools.count()
    while _interrupted(inputs, moment := next(moments)):
        assert moment < 1000
    assert moment > len(inputs)


def _interrupted(inputs: list[Input], moment: int) -> bool:
    """Whether it lasted until the call or return of that number, counted from 0."""
    past = 0

    def interrupt(frame: FrameType, _event: str, _argument: object) -> None:
        nonlocal past
        if "_Stream.__iter__" in _above(frame):
            past += 1
            if past > moment:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def take() -> None:
        found = streaming.answered(Fake(), iter(inputs), Plan(1, 2, 2))
        with closing(found), suppress(KeyboardInterrupt):
            sys.setprofile(interrupt)
            for _ in found:
                pass
            sys.setprofile(None)

    taking = threading.Thread(target=take, daemon=True)  # which could not be joined where it waits for good
    taking.start()
    taking.join(60)
    assert not taking.is_alive(), f"interrupted at moment {moment}"
    return past > moment


def _above(frame: FrameType | None) -> set[str]:
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_qualname)
        frame = frame.f_back
    return names


def test_a_model_that_cannot_be_run_ends_it() -> None:
    def broken(count: int) -> None:
        if count == 5:
            raise UserError("the model is damaged", "another")

    with pytest.raises(UserError, match="the model is damaged"):
        answered(Fake(broken), map(given, itertools.count()), Plan(2, 3, 2))


def test_inputs_that_cannot_be_listed_end_it() -> None:
    def listed() -> Iterator[Input]:
        yield given(0)
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        answered(Fake(), listed(), Plan(1, 2, 2))


def test_runs_are_as_many_at_once_as_planned() -> None:
    together = threading.Barrier(3, timeout=60)  # breaks unless three runs meet
    predictor = Fake(lambda _: together.wait())
    assert len(answered(predictor, map(given, range(6)), Plan(1, 4, 3))) == 6
    assert predictor.most == 3
