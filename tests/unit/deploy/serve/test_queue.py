"""Requests that wait: how many, how long, and for whom."""

import asyncio

import httpx
import pytest

from tests.unit.deploy.serve.conftest import URL, encoded, form, in_loop, serving, until
from transferline.deploy.serve.settings import Settings

PNG = {"content-type": "image/png"}


def post(client: httpx.AsyncClient, data: bytes | None = None) -> "asyncio.Task[httpx.Response]":
    return asyncio.ensure_future(client.post("/predict", content=data or encoded(), headers=PNG))


@in_loop
async def test_a_full_queue_answers_at_once_that_one_may_come_again(gate) -> None:
    async with serving(gate, queue=3, max_images=3) as (app, client):
        gate.open.clear()
        taken = [post(client) for _ in range(3)]
        await until(lambda: app.state.service._taken == 3)
        refused = await post(client)
        gate.open.set()
        answered = await asyncio.gather(*taken)
        again = await post(client)
    assert (refused.status_code, again.status_code) == (503, 200)
    assert int(refused.headers["retry-after"]) > 0
    assert "queue is full" in refused.json()["detail"]
    assert {each.status_code for each in answered} == {200}


@in_loop
async def test_images_of_a_form_each_take_a_place(gate) -> None:
    async with serving(gate, queue=4, max_images=4) as (app, client):
        gate.open.clear()
        first = asyncio.ensure_future(client.post("/predict", files=form(*[("a", encoded())] * 3)))
        await until(lambda: app.state.service._taken == 3)
        refused = await client.post("/predict", files=form(*[("a", encoded())] * 2))
        assert app.state.service._taken == 3
        gate.open.set()
        assert (await first).status_code == 200
    assert refused.status_code == 503


@in_loop
async def test_bytes_in_flight_are_bounded(gate) -> None:
    data = encoded()
    async with serving(gate, max_bytes=len(data), held_bytes=2 * len(data)) as (app, client):
        gate.open.clear()
        taken = [post(client, data) for _ in range(2)]
        await until(lambda: app.state.service._held.count == 2 * len(data))
        refused = await post(client, data)
        gate.open.set()
        await asyncio.gather(*taken)
        assert app.state.service._held.count == 0
    assert refused.status_code == 503
    assert "holds as much as it can" in refused.text


@in_loop
async def test_decoding_waits_for_room(gate) -> None:
    """At most one image more a decoder than there is room for is decoded; all are answered."""
    pixels = 40 * 60
    async with serving(gate, held_pixels=3 * pixels, max_batch=1, decoders=2) as (app, client):
        gate.open.clear()
        tasks = [post(client) for _ in range(12)]
        await until(lambda: app.state.service._taken == 12)
        decoders = app.state.service._decoders
        await until(lambda: decoders.held >= 3 * pixels)
        await asyncio.sleep(0.2)
        assert decoders.held <= (3 + 1) * pixels
        for task in tasks[6:]:  # some of those that wait, and maybe one of those that are decoded
            task.cancel()
        gate.open.set()
        assert {each.status_code for each in await asyncio.gather(*tasks[:6])} == {200}
    assert decoders.held == 0


@in_loop
async def test_a_deadline_ends_the_wait(gate) -> None:
    async with serving(gate, timeout_s=0.2) as (app, client):
        gate.open.clear()
        answer = await post(client)
        assert app.state.service._taken == 0
        gate.open.set()
    assert answer.status_code == 503
    assert "too long" in answer.text


@in_loop
async def test_a_body_that_trickles_is_given_up(predictor) -> None:
    async def trickle():
        yield b"\x89PNG"
        await asyncio.sleep(3600)

    async with serving(predictor, receive_s=0.2, queue=1, max_images=1) as (app, client):
        trickling = asyncio.ensure_future(client.post("/predict", content=trickle(), headers=PNG))
        await until(lambda: app.state.service._reading)
        meanwhile = await post(client)
        answer = await trickling
        assert app.state.service._taken == app.state.service._held.count == 0
    assert (meanwhile.status_code, answer.status_code) == (200, 408)


@in_loop
async def test_a_client_that_goes_frees_its_place(gate) -> None:
    async with serving(gate, queue=2, max_images=2, max_batch=1) as (app, client):
        gate.open.clear()
        running = post(client)
        await until(lambda: len(gate.batches) > 1)
        gone = asyncio.Event()
        leaving = asyncio.ensure_future(_ask_and_leave(app, gone))
        await until(lambda: app.state.service._batcher.depth == 1)
        gone.set()
        await leaving
        assert app.state.service._batcher.depth == 0
        assert app.state.service._taken == 1
        waiting = post(client)
        await until(lambda: app.state.service._taken == 2)
        gate.open.set()
        assert [each.status_code for each in await asyncio.gather(running, waiting)] == [200, 200]


async def _ask_and_leave(app, gone: asyncio.Event) -> None:
    """A request of which the connection is lost: httpx' transport cannot do this."""
    body = [{"type": "http.request", "body": encoded(), "more_body": False}]

    async def receive():
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        pass

    headers = [(b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
    await app({**scope, "http_version": "1.1", "scheme": "http", "server": (URL, 80), "root_path": ""}, receive, send)


@in_loop
async def test_a_model_that_fails_is_no_error_of_the_server_and_tells_nothing(gate, caplog) -> None:
    def fail(pixels):
        raise RuntimeError("/home/someone/model.onnx is broken")

    async with serving(gate) as (_, client):
        gate._predictor = type("Broken", (), {"predict": staticmethod(fail)})()
        answer = await post(client)
    assert answer.status_code == 503
    assert "someone" not in answer.text
    assert "someone" in caplog.text  # the operator is told


@in_loop
async def test_a_bug_is_answered_in_json_and_tells_nothing(predictor, monkeypatch) -> None:
    async def fail(*_):
        raise KeyError("/home/someone/secret")

    async with serving(predictor) as (app, _):
        monkeypatch.setattr(app.state.service, "predict", fail)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            answer = await post(client)
    assert (answer.status_code, answer.json()) == (500, {"detail": "the service failed"})


@in_loop
async def test_the_end_of_an_app_finishes_what_it_took(gate) -> None:
    async with serving(gate, max_batch=1) as (app, client):
        gate.open.clear()
        tasks = [post(client) for _ in range(5)]
        await until(lambda: app.state.service._taken == 5)
        asyncio.get_running_loop().call_later(0.2, gate.open.set)
    assert {task.result().status_code for task in tasks if task.done()} == {200}
    assert app.state.service._taken == 0


@pytest.mark.parametrize(("given", "told"), [({"max_images": 300}, "queue"), ({"max_bytes": 10**9}, "held_bytes")])
def test_settings_that_contradict_each_other_are_refused(given, told) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(**given)
