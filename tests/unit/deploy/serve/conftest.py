"""A service in the test's own process, asked without a network."""

import asyncio
import functools
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from transferline.deploy.predictor import Predictor
from transferline.deploy.serve.app import create_app
from transferline.deploy.serve.settings import Settings

URL = "http://service"


@pytest.fixture(scope="session")
def predictor(line) -> Predictor:
    return Predictor(line.model, threads=1, spinning=False)


class Gate:
    """A predictor that runs when it is let: to hold requests where a test wants them."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        assert self.open.wait(60)
        return self._predictor.predict(pixels)


@pytest.fixture
def gate(predictor) -> Gate:
    return Gate(predictor)


@asynccontextmanager
async def serving(predictor: Any, **settings: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """An app with these settings, from its start to its end, and a client of it."""
    app = create_app(predictor, Settings(**{"runs": 1} | settings))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client,
    ):
        yield app, client


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(condition: Any) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def encoded(width: int = 40, height: int = 60, kind: str = "PNG", seed: int = 0, **options: Any) -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """The `files` of a multipart request."""
    return [("files", file) for file in files]
