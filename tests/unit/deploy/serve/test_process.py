"""The service as a process of its own: its connections, what it prints, and how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.unit.deploy.serve.conftest import encoded

TIMEOUT = 120  # seconds, far more than anything here takes
COMMAND = "from transferline.deploy.cli import app; app()"  # the script of that name belongs to an installation


@contextmanager
def started(model: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", int, str]]:
    """A service at a free port, its port and its first line; killed in the end, if it still runs."""
    command = [sys.executable, "-c", COMMAND, "serve", str(model), "--port", "0", "--threads", "1", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ}) as process:
        try:
            assert process.stdout is not None is not process.stderr
            first = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", first)
            assert found, first + process.stderr.read()
            yield process, int(found[1]), first
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def connect(stack: ExitStack, port: int) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and JSON of an answer after which the connection is closed."""
    head, _, body = receive(connection).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def request(body: bytes, further: str = "") -> bytes:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n{further}\r\n"
    )
    return head.encode() + body


def test_a_signal_ends_it_when_what_it_took_is_answered(line) -> None:
    """Twenty clients have sent half of their request when it comes, and send the rest after it."""
    whole = request(encoded())
    with started(line.model) as (process, port, first), ExitStack() as stack:
        clients = [connect(stack, port) for _ in range(20)]
        for client in clients:
            client.sendall(whole[:1000])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as asking:
            taken = 0.0
            while taken < 20:
                taken = float(re.search(r"^transferline_reading_requests (.*)$", asking.get("/metrics").text, re.M)[1])
            assert asking.get("/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
        for client in clients:
            client.sendall(whole[1000:])
        answers = [answer(client) for client in clients]
        out, errors = process.communicate(timeout=TIMEOUT)
    assert [status for status, _ in answers] == [200] * 20
    assert all(found == answers[0][1] for _, found in answers)
    assert process.returncode == 0
    assert f"serving {line.model} (tiny, fp32, 3 classes, cpu) at http://127.0.0.1:{port}" in first
    assert re.fullmatch(r"served \d+ requests and classified 20 images; refused 0\n", out)
    assert errors == ""


def test_connections_are_bounded_and_told_in_json(line) -> None:
    image = encoded()
    with started(line.model, "--max-bytes", "100000") as (process, port, _), ExitStack() as stack:
        endless, broken, large, good = (connect(stack, port) for _ in range(4))
        endless.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: ")
        with contextlib.suppress(OSError):  # it is closed while we send
            for _ in range(100):
                endless.sendall(b"x" * 10_000)
        with contextlib.suppress(OSError):
            status, said = answer(endless)
            assert (status, said) == (431, {"detail": "the headers are too large"})
        broken.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert answer(broken) == (400, {"detail": "this is no valid HTTP request"})
        large.sendall(request(bytes(5_000_000)) + request(image, "Connection: close\r\n"))  # all of it, then the answer
        refused, _, rest = receive(large).partition(b"}HTTP/1.1")
        assert refused.startswith(b"HTTP/1.1 413 ")
        assert rest.startswith(b" 200 ")
        good.sendall(request(image, "Connection: close\r\n"))
        assert answer(good)[0] == 200
        headers = httpx.get(f"http://127.0.0.1:{port}/healthz").headers
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
    assert "server" not in headers
    assert process.returncode == 0


def receive(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data
