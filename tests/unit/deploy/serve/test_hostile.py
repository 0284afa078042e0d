"""2,000 hostile requests to a real server over loopback: it refuses them, tells nothing of itself, and lives on."""

import json
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.servers import HOST, Server, free_port, running, transferline_serve

from .hostile import Attack, attacks, good, request

COUNT, SEED, CLIENTS = 2_000, 0, 8
WARM_UP = 500  # of them, after which memory is flat
GROWTH_MB = 16.0
PATIENCE_S = 120.0
LIMITS = ("--max-bytes", "200000", "--max-pixels", "1000000", "--timeout-s", "20")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TELLING = re.compile(
    rb"traceback|site-packages|\.py\b|pil\.|pillow|starlette|fastapi|uvicorn|httptools|onnx|transferline|/tmp|/root|/home"
    rb"|/usr|0x[0-9a-f]{6}|exception|errno",
    re.IGNORECASE,
)


@dataclass
class Fuzzed:
    """A server after all attacks."""

    server: Server
    answers: list[tuple[Attack, bytes]] = field(default_factory=list)
    good: list[bytes] = field(default_factory=list)  # answers to good images amid the attacks
    memory_mb: list[float] = field(default_factory=list)  # after the warm-up, and after each 100


@pytest.fixture(scope="module")
def fuzzed(line, tmp_path_factory):
    scratch, port = tmp_path_factory.mktemp("hostile"), free_port()
    made = attacks(COUNT, SEED, scratch / "corpus")
    with running(transferline_serve(line.model, port, *LIMITS), port, "/readyz", scratch / "log") as server:
        found = Fuzzed(server)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for first in range(0, COUNT, 100):
                some = made[first : first + 100]
                answered = pool.map(lambda attack: said(server, attack), some)
                found.good.append(said(server, Attack("good", request(good(), "image/png"))))
                found.answers += zip(some, answered, strict=True)
                if first + 100 >= WARM_UP:
                    found.memory_mb.append(server.memory_mb())
        yield found


def said(server: Server, attack: Attack) -> bytes:
    """All that the server answers until it closes the connection; nothing, where it cuts it short."""
    answer = b""
    with socket.create_connection((HOST, server.port), PATIENCE_S) as connection:
        try:
            connection.sendall(attack.message)
            if attack.ends:
                connection.shutdown(socket.SHUT_WR)
            while some := connection.recv(65536):
                answer += some
        except OSError as error:  # of a connection that the server has closed, shutdown's is no ConnectionError
            if isinstance(error, TimeoutError):
                raise
    return answer


def statuses(answer: bytes) -> list[int]:
    """Of the answers in it, but for `100 Continue`."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answer.replace(CONTINUE, b""))]


def test_no_answer_is_a_failure_of_the_server(fuzzed: Fuzzed) -> None:
    seen = Counter(status for _, answer in fuzzed.answers for status in statuses(answer))
    assert len(fuzzed.answers) == COUNT
    assert not {status for status in seen if status >= 500} - {503}, seen
    assert min(seen[status] for status in (200, 400, 404, 413, 415, 422)) > 0, seen  # every kind of refusal is met


def test_what_is_well_formed_is_answered_once_and_in_json(fuzzed: Fuzzed) -> None:
    for attack, answer in fuzzed.answers:
        if not attack.due:
            continue
        head, _, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
        assert len(statuses(head)) == len(statuses(answer)) == 1, (attack, answer)
        said = json.loads(body)
        assert said["predictions"] if statuses(head) == [200] else said["detail"], (attack, answer)
        assert b"x-injected" not in head.lower()


def test_answers_tell_nothing_of_the_server(fuzzed: Fuzzed) -> None:
    for attack, answer in fuzzed.answers:
        assert not TELLING.search(answer), (attack.kind, answer)


def test_good_images_are_answered_rightly_all_the_while(fuzzed: Fuzzed, predictor) -> None:
    expected = predictor.predict_file(good())
    for answer in fuzzed.good:
        (found,) = json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]
        assert [found["probabilities"][name] for name in predictor.classes] == pytest.approx(expected, abs=1e-4)


def test_memory_stays_flat(fuzzed: Fuzzed) -> None:
    assert max(fuzzed.memory_mb) - fuzzed.memory_mb[0] < GROWTH_MB, fuzzed.memory_mb


def test_nothing_is_held_afterwards_and_nothing_crashed(fuzzed: Fuzzed) -> None:
    metrics = said(fuzzed.server, Attack("metrics", b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    for gauge in (b"queue_images", b"waiting_images", b"held_bytes"):
        assert re.search(rb"^transferline_%s 0\.0$" % gauge, metrics, re.MULTILINE), gauge
    assert "Traceback" not in fuzzed.server.log.read_text(errors="replace")
