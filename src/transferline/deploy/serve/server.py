"""uvicorn, with what it leaves open: bounded headers, errors in JSON, and an end with exit code 0."""

import asyncio
import json
import math
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_BACKLOG = 2048  # connections that the system keeps until they are taken
_HEADER_BYTES = 32_768  # of a request, with its address
_HEADER_S = 30.0  # longest silence before a request, and longest arrival of its headers
_REST_S = 10.0  # longest arrival of the rest of a body that was refused: clients read the answer after they have sent


class Server(uvicorn.Server):
    """Serves an app until a signal, then finishes what the app has taken.

    Args:
        app: as `create_app` makes it.
        grace: seconds that it may take to finish; what is not answered by then is cancelled.
        greeting: printed once requests are taken.
    """

    def __init__(self, app: FastAPI, grace: float, greeting: str) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,  # its warnings and errors go to stderr, where no one configured logging
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=math.ceil(_HEADER_S),
            timeout_graceful_shutdown=math.ceil(grace),
        )
        super().__init__(config)
        self._service, self._greeting = app.state.service, greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it gently, a second Ctrl-C at once; uvicorn would then die of the signal itself."""
        self._service.stopping = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class Protocol(HttpToolsProtocol):
    """A connection whose client can neither fill memory with headers nor hold it open with half a request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._aside = 0  # bytes since the last part of a body: headers, framing, trailers
        self._whole = True  # whether the last request has arrived whole
        self._timer: asyncio.TimerHandle | None = None
        self._close_in(_HEADER_S)

    def data_received(self, data: bytes) -> None:
        self._aside += len(data)
        super().data_received(data)
        if self._aside > _HEADER_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self._refuse(b"431 Request Header Fields Too Large", "the headers are too large")
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._close_in(_HEADER_S)

    def on_headers_complete(self) -> None:
        self._aside, self._whole = 0, False
        self._stay_open()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._aside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._aside, self._whole = 0, True
        self._stay_open()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole and self.cycle.response_complete:
            self._close_in(_REST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stay_open()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP."""
        self._refuse(b"400 Bad Request", "this is no valid HTTP request")
        self.transport.close()

    def _refuse(self, status: bytes, detail: str) -> None:
        body = json.dumps({"detail": detail}).encode()
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)

    def _close_in(self, seconds: float) -> None:
        self._stay_open()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stay_open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()
