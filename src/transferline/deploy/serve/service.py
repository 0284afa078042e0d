"""A request for predictions: taken or refused, decoded, batched, answered."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request

from transferline.data import images
from transferline.deploy import answers
from transferline.deploy.predictor import Predictor
from transferline.deploy.serve.batching import Batcher, Limits, Probabilities
from transferline.deploy.serve.bodies import Body, Held, Upload
from transferline.deploy.serve.decoding import Decoders
from transferline.deploy.serve.refusals import RefusalError
from transferline.deploy.serve.settings import Settings
from transferline.deploy.serve.telemetry import Telemetry

logger = logging.getLogger(__name__)


class Service:
    """One model behind HTTP: its threads, its limits and its state."""

    def __init__(self, predictor: Predictor, settings: Settings, telemetry: Telemetry) -> None:
        self.predictor, self.settings, self._telemetry = predictor, settings, telemetry
        size, wait = settings.batch_of(predictor.device), settings.max_wait_ms / 1000
        limits = Limits(size, settings.batch_pixels, wait, settings.runs_of(predictor.device))
        self._batcher = Batcher(predictor.predict, limits, telemetry.ran)
        self._decoders = Decoders(settings)
        self._held = Held(settings.held_bytes)
        self._reading = 0  # requests whose body is arriving: it may take long, and so takes no place
        self._taken = 0  # images
        self.warm = self.stopping = False
        telemetry.gauge("reading_requests", "Requests whose body is arriving", lambda: self._reading)
        telemetry.gauge("queue_images", "Images taken and not yet answered", lambda: self._taken)
        telemetry.gauge("waiting_images", "Decoded images that wait for their batch", lambda: self._batcher.depth)
        telemetry.gauge("held_bytes", "Bytes of bodies that are worked on", lambda: self._held.count)
        telemetry.gauge("held_pixels", "Decoded pixels that wait or run", lambda: self._decoders.held)

    @property
    def ready(self) -> bool:
        return self.warm and not self.stopping

    def warm_up(self) -> None:
        """Run the model once for each size of a batch that is usual: memory is allocated then."""
        side = int(self.predictor.metadata.get("input_size", 224))
        for count in {1, self.settings.batch_of(self.predictor.device)}:
            self.predictor.predict(np.zeros((count, side, side, 3), np.uint8))
        self.warm = True

    async def stop(self) -> None:
        """Take nothing new, and wait for what was taken."""
        self.stopping = True
        while self._reading or self._taken:
            await asyncio.sleep(0.01)
        self._batcher.close()
        self._decoders.close()

    async def predict(self, request: Request, top: int | None) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            RefusalError: 408, 413, 415, 422 or 503.
            ClientDisconnect: nobody waits for it any more.
        """
        began, taken = time.perf_counter(), 0
        body = Body(request, self.settings, self._held)
        try:
            if self.stopping:
                raise RefusalError(503, "stopping", "the service is stopping; try again")
            self._require_places(1)
            self._reading += 1
            try:
                uploads = await body.uploads()
            finally:
                self._reading -= 1
            self._require_places(len(uploads))
            taken = len(uploads)
            self._taken += taken
            found = await self._while_there(request, self._classified(uploads))
        except RefusalError as refusal:
            self._telemetry.refused(refusal.reason)
            raise
        finally:
            self._taken -= taken
            body.release()
        predictions = [
            ({} if upload.name is None else {"name": upload.name})
            | answers.answer(self.predictor, probabilities).as_json(top)
            for upload, probabilities in zip(uploads, found, strict=True)
        ]
        self._telemetry.answered(len(uploads), time.perf_counter() - began)
        return {"predictions": predictions}

    def _require_places(self, images: int) -> None:
        if self._taken + images > self.settings.queue:
            raise RefusalError(503, "queue", "the queue is full; try again")

    async def _while_there(
        self, request: Request, work: Coroutine[Any, Any, list[Probabilities]]
    ) -> list[Probabilities]:
        """The result of `work`, which ends when the client goes, or when it takes too long."""
        working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
        try:
            await asyncio.wait((working, gone), timeout=self.settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if gone.done():
                raise ClientDisconnect
            raise RefusalError(503, "deadline", "it took too long; try again")
        finally:
            gone.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait((working,))

    async def _classified(self, uploads: list[Upload]) -> list[Probabilities]:
        if len(uploads) == 1:
            try:
                return [await self._one(uploads[0].data)]
            except images.ImageError as error:
                raise RefusalError(_status(error), "image", _reason(error)) from None
        found = await asyncio.gather(*(self._one(upload.data) for upload in uploads), return_exceptions=True)
        bad = [(row, error) for row, error in enumerate(found) if isinstance(error, images.ImageError)]
        if bad:
            listed = [{"index": row, "name": uploads[row].name, "reason": _reason(error)} for row, error in bad]
            status = 413 if all(_status(error) == 413 for _, error in bad) else 422
            raise RefusalError(status, "image", f"{len(bad)} of {len(uploads)} images cannot be used", listed)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if not isinstance(each, BaseException)]

    async def _one(self, data: bytes) -> Probabilities:
        self._batcher.announce()
        try:
            pixels, seconds = await self._decoders.decode(data)
        except BaseException:
            self._batcher.withdraw()
            raise
        self._telemetry.decoded(seconds)
        try:
            return await self._batcher.submit(pixels)
        except Exception:
            logger.exception("the model cannot be run on an image of %s", pixels.shape)
            raise RefusalError(503, "model", "the model could not be run on an image") from None
        finally:
            self._decoders.release(pixels)


async def _disconnect(request: Request) -> None:
    """Until the client has gone, or has been answered."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _status(error: images.ImageError) -> int:
    return 413 if isinstance(error, images.TooManyPixelsError) else 422


def _reason(error: images.ImageError) -> str:
    """Without what a decoder said, which is the server's own."""
    said = str(error)
    return "does not decode: it is damaged or truncated" if said.startswith("does not decode") else said
