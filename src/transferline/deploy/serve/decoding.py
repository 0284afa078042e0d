"""Threads that decode what was sent, as long as what is decoded leaves room for more."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from transferline.data import images
from transferline.deploy.serve.settings import FORMATS, Settings


class Decoded(NamedTuple):
    """An image uint8 [H, W, 3], and the seconds that it took."""

    pixels: images.Pixels
    seconds: float


class Decoders:
    """Decode for one event loop. Pixels are held from their decoding until they are released.

    At most `held_pixels` are held, and an image a thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.decoders, "decoder")
        self._changed = threading.Condition()
        self.held = 0

    async def decode(self, data: bytes) -> Decoded:
        """Raises ImageError for what is no single image, or one over the limits."""
        job = self._threads.submit(self._decode, data)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(self._drop)
            raise

    def release(self, pixels: images.Pixels) -> None:
        """They are not needed any more."""
        self._hold(-pixels.size // 3)

    def close(self) -> None:
        self._threads.shutdown()

    def _decode(self, data: bytes) -> Decoded:
        """In a thread."""
        limits = self._settings
        with self._changed:
            self._changed.wait_for(lambda: self.held < limits.held_pixels)
        began = time.perf_counter()
        pixels = images.decode(
            data, min_side=limits.min_side, max_pixels=limits.max_pixels, formats=FORMATS, animated=False
        )
        self._hold(pixels.size // 3)
        return Decoded(pixels, time.perf_counter() - began)

    def _hold(self, pixels: int) -> None:
        with self._changed:
            self.held += pixels
            self._changed.notify_all()

    def _drop(self, job: "Future[Decoded]") -> None:
        """What nobody waits for any more."""
        if not job.cancelled() and job.exception() is None:
            self.release(job.result().pixels)
