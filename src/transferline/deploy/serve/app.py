"""The HTTP service as an ASGI app: `create_app`. Nothing in it is of the process; several may live in one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from transferline.deploy.predictor import Predictor
from transferline.deploy.serve import page, schema
from transferline.deploy.serve.refusals import RefusalError, as_json
from transferline.deploy.serve.service import Service
from transferline.deploy.serve.settings import Settings
from transferline.deploy.serve.telemetry import CONTENT_TYPE, Telemetry


def create_app(predictor: Predictor, settings: Settings) -> FastAPI:
    """The service of a model. Its lifespan warms the model up, and in the end finishes what it took.

    `app.state.service` is the Service, `app.state.telemetry` the Telemetry.
    """
    telemetry = Telemetry()
    service = Service(predictor, settings, telemetry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not service.warm:
            await asyncio.get_running_loop().run_in_executor(None, service.warm_up)
        yield
        await service.stop()

    app = FastAPI(
        title="Transferline",
        summary="Classifies images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the Host that a client claims
        lifespan=lifespan,
    )
    app.state.service, app.state.telemetry = service, telemetry
    app.add_middleware(telemetry.counting)
    _handle_errors(app)
    _add_predict(app, service)
    _add_states(app, service, telemetry)
    app.include_router(page.router(settings))
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        summary="Classify one or more images",
        responses={200: schema.answer("A prediction for each image.", schema.PREDICTIONS), **schema.REFUSALS},
        openapi_extra={"requestBody": schema.REQUEST},
        response_class=Response,
    )
    async def predict(
        request: Request,
        top: Annotated[int | None, Query(ge=1, description="only the K likeliest classes")] = None,
    ) -> Response:
        return as_json(await service.predict(request, top))


def _add_states(app: FastAPI, service: Service, telemetry: Telemetry) -> None:
    described = described_model(service.predictor)

    @app.get("/healthz", summary="Whether the process lives", responses={200: schema.answer("Alive.", schema.STATE)})
    async def healthz() -> Response:
        return as_json({"status": "ok"})

    @app.get(
        "/readyz",
        summary="Whether requests are taken",
        responses={200: schema.answer("Ready.", schema.STATE), 503: schema.answer("Not ready.", schema.STATE)},
    )
    async def readyz() -> Response:
        if service.ready:
            return as_json({"status": "ready"})
        return as_json({"status": "stopping" if service.stopping else "starting"}, 503)

    @app.get("/model", summary="What is served", responses={200: schema.answer("The model.", schema.MODEL)})
    async def model() -> Response:
        return as_json(described)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(telemetry.exposed(), headers={"content-type": CONTENT_TYPE})


def described_model(predictor: Predictor) -> dict[str, Any]:
    """What /model says: nothing of where the file lies or how it came about."""
    metadata = predictor.metadata
    return {
        "classes": predictor.classes,
        "backbone": metadata.get("backbone", ""),
        "variant": metadata.get("variant", "fp32"),
        "input_size": int(metadata.get("input_size", 224)),
        "multilabel": predictor.thresholds is not None,
        "device": predictor.device,
    }


def _handle_errors(app: FastAPI) -> None:
    """Every error is JSON with a `detail`, and names nothing of the server."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        return error.response()

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return as_json({"detail": said}, 422)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return as_json({"detail": error.detail}, error.status_code, error.headers)

    async def failed(_: Request, error: Exception) -> Response:
        return as_json({"detail": "the service failed"}, 500)  # the server's log has the trace

    app.add_exception_handler(RefusalError, refused)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)
