"""Requests over loopback, from a process of its own: what `benchmarks.serve` drives its servers with.

    python -m benchmarks.load < SPEC

SPEC is a `Spec` as JSON. Each of the clients keeps a connection, and sends its next request when it has the answer to
its last. Requests lie ready as bytes, and answers are judged when all are there, so that this takes next to nothing
from the processor that it shares with the server. A line is printed for some requests, and the `Outcome` at last.
"""

import asyncio
import base64
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from tests.servers import HOST, Server

TOLERANCE = 1e-4
SAMPLES, EVERY = 200, 10  # of the server's memory: at most so many, and one in so many answers
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BOUNDARY = b"transferline-benchmark"
_ID_DIGITS = 8


@dataclass
class Spec:
    """What to send, and what is to come back."""

    port: int
    pids: list[int]  # of the server
    form: str  # raw, multipart or mlflow
    clients: int
    requests: int
    images: list[str]  # paths
    answers: list[dict[str, Any]]  # of each image: `class` or `labels`, and `probabilities`


@dataclass
class Outcome:
    """Of a load: times of answers in ms by percentile; processor time in seconds; memory of the server in MB."""

    seconds: float
    answered: int  # with 200 and rightly
    lost: int  # connections that ended without an answer
    refused: int  # answered, but not with 200
    wrong: int  # another class, probability or id than that image's
    ms: dict[str, float]
    server_cpu_s: float
    client_cpu_s: float
    memory: list[tuple[int, float]] = field(default_factory=list)  # requests answered, MB


class Load:
    """All clients of a load, and what they got."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.server = spec, Server(spec.port, [psutil.Process(pid) for pid in spec.pids], Path())
        self.messages = [message(spec.form, Path(image).read_bytes()) for image in spec.images]
        self.given = 0
        self.got: list[tuple[int, int, float, bytes]] = []  # id, status, seconds, body
        self.lost = 0
        self.memory: list[tuple[int, float]] = []
        self.opening: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(lambda _, context: self._failed(context.get("exception")))

    def take(self) -> int | None:
        """The id of the next request; None where all have been given out."""
        if self.given == self.spec.requests:
            return None
        self.given += 1
        return self.given - 1

    def bytes_of(self, number: int) -> list[bytes]:
        before, after = self.messages[number % len(self.messages)]
        return [before, f"{number:0{_ID_DIGITS}}".encode(), after]

    def answered(self, number: int, status: int, seconds: float, body: bytes) -> None:
        self.got.append((number, status, seconds, body))
        self._count()

    def dropped(self) -> None:
        """A connection has ended without its answer: it is lost, and the client goes on over another one."""
        self.lost += 1
        self._count()
        task = asyncio.create_task(self.connect())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Client(self), HOST, self.spec.port)
        except OSError as error:  # there is no server any more
            self._failed(error)

    def _failed(self, error: BaseException | None) -> None:
        """Nothing more will come of this load."""
        if not self.done.done():
            self.done.set_exception(error or RuntimeError("a client failed"))

    def _count(self) -> None:
        count = len(self.got) + self.lost
        if count % max(EVERY, self.spec.requests // SAMPLES) == 0:
            self.memory.append((count, self.server.memory_mb()))
            print(count, flush=True)
        if count == self.spec.requests and not self.done.done():
            self.done.set_result(None)

    async def run(self) -> Outcome:
        before, own, start = self.server.cpu_s(), time.process_time(), time.perf_counter()
        for _ in range(self.spec.clients):
            await self.connect()
        await self.done
        seconds, client_cpu = time.perf_counter() - start, time.process_time() - own
        server_cpu = self.server.cpu_s() - before
        right = [status == 200 and self._right(number, body) for number, status, _, body in self.got]
        refused = sum(status != 200 for _, status, _, _ in self.got)
        times = [1000 * took for _, _, took, _ in self.got]
        ms = {f"p{rank}": float(np.percentile(times, rank)) for rank in (50, 95, 99)} if times else {}
        wrong = len(right) - sum(right) - refused
        return Outcome(seconds, sum(right), self.lost, refused, wrong, ms, server_cpu, client_cpu, self.memory)

    def _right(self, number: int, body: bytes) -> bool:
        """The class and every probability are that image's; the name is the request's, where it had one."""
        try:
            (found,) = json.loads(body)["predictions"]
        except (ValueError, KeyError, TypeError):
            return False
        expected = self.spec.answers[number % len(self.spec.answers)]
        if self.spec.form == "multipart" and found.get("name") != f"{number:0{_ID_DIGITS}}":
            return False
        if any(found.get(key) != expected.get(key) for key in ("class", "labels")):
            return False
        given, right = found["probabilities"], expected["probabilities"]
        return given.keys() == right.keys() and all(abs(given[name] - right[name]) <= TOLERANCE for name in right)


class Client(asyncio.Protocol):
    """A connection with one request at a time on it."""

    def __init__(self, load: Load) -> None:
        self.load, self.buffer = load, bytearray()
        self.number: int | None = None  # of the request that waits for its answer

    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.number = self.load.take()
        if self.number is None:
            self.transport.close()
            return
        self.began = time.perf_counter()
        self.transport.writelines(self.load.bytes_of(self.number))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self.buffer, 0, head) if head > 3 else None
        if length is None or len(self.buffer) < head + int(length[1]):
            return
        assert self.number is not None
        body = bytes(self.buffer[head : head + int(length[1])])
        self.load.answered(self.number, int(self.buffer[9:12]), time.perf_counter() - self.began, body)
        self.buffer.clear()
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number is not None:
            self.load.dropped()


def message(form: str, image: bytes) -> tuple[bytes, bytes]:
    """A request, as what stands before and after its id."""
    if form == "mlflow":
        body = json.dumps({"inputs": [base64.b64encode(image).decode()]}).encode()
        return _head("/invocations", b"application/json", len(body)) + b"X-Request-ID: ", b"\r\n\r\n" + body
    if form == "raw":
        return _head("/predict", b"image/jpeg", len(image)) + b"X-Request-ID: ", b"\r\n\r\n" + image
    before = b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="files"; filename="'
    after = b'"\r\nContent-Type: image/jpeg\r\n\r\n' + image + b"\r\n--" + _BOUNDARY + b"--\r\n"
    kind = b"multipart/form-data; boundary=" + _BOUNDARY
    return _head("/predict", kind, len(before) + _ID_DIGITS + len(after)) + b"\r\n" + before, after


def _head(path: str, kind: bytes, length: int) -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n".encode()
    return lines + b"Content-Type: " + kind + b"\r\n"


async def _main() -> Outcome:
    return await Load(Spec(**json.load(sys.stdin))).run()


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_main()))))
