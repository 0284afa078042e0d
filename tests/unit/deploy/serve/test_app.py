"""What the service answers when all is well."""

import asyncio
import io
import json

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families as families

from tests.unit.deploy.conftest import CLASSES
from tests.unit.deploy.serve.conftest import encoded, form, in_loop, serving, until
from transferline.data import images
from transferline.deploy import answers
from transferline.deploy.predictor import Predictor


def expected(predictor: Predictor, data: bytes, top: int | None = None) -> dict[str, object]:
    return answers.answer(predictor, predictor.predict(images.decode(data)[None])[0]).as_json(top)


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "IMAGE/x; a=b", "application/octet-stream"])
@in_loop
async def test_raw_bytes_are_classified(predictor, kind) -> None:
    data = encoded()
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", content=data, headers={"content-type": kind})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"predictions": [expected(predictor, data)]}


@in_loop
async def test_files_of_a_form_are_classified_in_their_order(predictor) -> None:
    sent = [(f"bild {number} ü.png", encoded(20 + number % 2, seed=number)) for number in range(9)]
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", files=form(*sent))
    found = answer.json()["predictions"]
    assert [each.pop("name") for each in found] == [name for name, _ in sent]
    for each, (_, data) in zip(found, sent, strict=True):
        right = expected(predictor, data)
        assert each["class"] == right["class"]
        assert each["probabilities"] == pytest.approx(right["probabilities"], abs=1e-5)  # another batch


@in_loop
async def test_top_shows_the_likeliest(predictor) -> None:
    data = encoded()
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict?top=2", content=data, headers={"content-type": "image/png"})
        wrong = [await client.post(f"/predict?top={top}", content=data) for top in ("0", "-1", "x", "1.5", "")]
    assert answer.json() == {"predictions": [expected(predictor, data, 2)]}
    assert len(answer.json()["predictions"][0]["probabilities"]) == 2
    assert [each.status_code for each in wrong] == [422] * 5
    assert all(each.json()["detail"].startswith("top: ") for each in wrong)


@in_loop
async def test_labels_are_given_where_an_image_may_have_several(labelled_line) -> None:
    predictor, data = Predictor(labelled_line.model, threads=1, spinning=False), encoded()
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", content=data, headers={"content-type": "image/png"})
        model = (await client.get("/model")).json()
    assert answer.json() == {"predictions": [expected(predictor, data)]}
    assert set(answer.json()["predictions"][0]) == {"labels", "probabilities"}
    assert model["multilabel"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("PPM", {})],
)
@in_loop
async def test_formats_are_taken_whatever_they_are_called(predictor, kind, options) -> None:
    data = encoded(kind=kind, **options)
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", content=data, headers={"content-type": "application/octet-stream"})
    assert answer.json() == {"predictions": [expected(predictor, data)]}


@in_loop
async def test_the_model_is_described_without_its_place(predictor, line) -> None:
    async with serving(predictor) as (_, client):
        answer = await client.get("/model")
    assert answer.json() == {
        "classes": CLASSES,
        "backbone": "tiny",
        "variant": "fp32",
        "input_size": 32,
        "multilabel": False,
        "device": "cpu",
    }
    assert str(line.model.parent) not in answer.text


@in_loop
async def test_it_lives_and_is_ready_from_its_start_to_its_end(predictor) -> None:
    async with serving(predictor) as (app, client):
        ready = await client.get("/readyz")
        app.state.service.stopping = True
        stopping, alive = await client.get("/readyz"), await client.get("/healthz")
        refused = await client.post("/predict", content=encoded(), headers={"content-type": "image/png"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (stopping.status_code, stopping.json()) == (503, {"status": "stopping"})
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0


@in_loop
async def test_it_is_not_ready_before_its_start(predictor) -> None:
    async with serving(predictor) as (app, client):
        app.state.service.warm = False
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "starting"})


@in_loop
async def test_metrics_tell_what_was_done(gate) -> None:
    async with serving(gate, max_batch=8) as (app, client):
        gate.open.clear()
        gate.batches.clear()
        files = form(*((f"{number}.png", encoded(seed=number)) for number in range(5)))
        asking = asyncio.ensure_future(client.post("/predict", files=files))
        await until(lambda: gate.batches)
        during = metrics((await client.get("/metrics")).text)
        gate.open.set()
        await asking
        await client.post("/predict", content=b"x", headers={"content-type": "image/png"})
        await client.get("/nowhere/1")
        await client.get("/nowhere/2")
        answer = await client.get("/metrics")
    after = metrics(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert during["transferline_queue_images", ()] == 5
    assert after["transferline_queue_images", ()] == 0
    assert after["transferline_held_bytes", ()] == 0
    assert after["transferline_images_total", ()] == 5
    assert after["transferline_requests_total", ("/predict", "200")] == 1
    assert after["transferline_requests_total", ("/predict", "422")] == 1
    assert after["transferline_requests_total", ("other", "404")] == 2
    assert after["transferline_refused_total", ("image",)] == 1
    assert after["transferline_batch_images_sum", ()] == 5
    assert after["transferline_decoding_seconds_count", ()] == 5
    assert after["transferline_waiting_seconds_count", ()] == 5
    assert after["transferline_inference_seconds_count", ()] == after["transferline_batch_images_count", ()]
    assert after["transferline_request_seconds_count", ()] == 1
    assert (app.state.telemetry.images, app.state.telemetry.refusals) == (5, 1)


def metrics(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and values of their labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


@in_loop
async def test_apps_share_nothing(predictor) -> None:
    async with serving(predictor) as (_, first), serving(predictor, max_bytes=1) as (_, second):
        headers = {"content-type": "image/png"}
        assert (await first.post("/predict", content=encoded(), headers=headers)).status_code == 200
        assert (await second.post("/predict", content=encoded(), headers=headers)).status_code == 413
        assert metrics((await second.get("/metrics")).text)["transferline_images_total", ()] == 0


@in_loop
async def test_the_schema_tells_of_bodies_and_answers(predictor) -> None:
    async with serving(predictor) as (_, client):
        schema = (await client.get("/openapi.json")).json()
        pages = [(await client.get(path)).status_code for path in ("/docs", "/redoc")]  # which load from elsewhere
    operation = schema["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(operation["responses"]) == {"200", "408", "413", "415", "422", "503"}
    assert {"/healthz", "/readyz", "/model"} <= set(schema["paths"])
    assert "HTTPValidationError" not in json.dumps(schema)
    assert pages == [404, 404]


@in_loop
async def test_a_photo_lies_as_its_exif_says(predictor) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    async with serving(predictor) as (_, client):
        answer = await client.post("/predict", content=stream.getvalue(), headers={"content-type": "image/png"})
    turned = np.ascontiguousarray(np.rot90(pixels, -1))
    assert answer.json()["predictions"] == [answers.answer(predictor, predictor.predict(turned[None])[0]).as_json()]
