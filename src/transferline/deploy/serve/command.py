"""`transferline serve`: a model behind HTTP, from the socket to the last answer."""

import errno
import socket
import sys
from collections.abc import Sequence
from typing import Any

from transferline.errors import UserError

_EXTRA = "pip install 'transferline[serve]'"
_SWITCH_S = 0.0005  # threads that come back from inference or decoding wait this long for the loop, not Python's 5 ms


def serve(
    model: str, host: str, port: int, *, providers: Sequence[str] | None, threads: int | None, settings: dict[str, Any]
) -> None:
    """Serve until SIGTERM or Ctrl-C, and then until what was taken is answered.

    Args:
        model: an ONNX file that the export stage wrote, or a version in the registry, as `models.located` takes it.
        host: the address to listen at.
        port: of that address; 0 for any free one.
        providers: onnxruntime's, None for the best there is.
        threads: that the model runs in, None for one a core.
        settings: those of `Settings` that are not as by default.

    Raises:
        UserError: where the extra is missing, the model cannot be served, or the address is taken.
    """
    _require_extra()
    from transferline.deploy import models
    from transferline.deploy.predictor import Predictor
    from transferline.deploy.serve.app import create_app, described_model
    from transferline.deploy.serve.server import Server

    limits = _settings(settings)
    with _bound(host, port) as listening:
        predictor = Predictor(models.located(model), providers=providers, threads=threads, spinning=False)
        app = create_app(predictor, limits)
        app.state.service.warm_up()
        facts = described_model(predictor)
        what = f"{model} ({facts['backbone']}, {facts['variant']}, {len(facts['classes'])} classes, {facts['device']})"
        server = Server(app, limits.grace_s, f"serving {what} at {_address(host, listening)} - Ctrl-C stops")
        sys.setswitchinterval(_SWITCH_S)
        server.run([listening])
    told = app.state.telemetry
    print(f"served {told.requests:,} requests and classified {told.images:,} images; refused {told.refusals:,}")


def _require_extra() -> None:
    try:
        import fastapi
        import prometheus_client
        import python_multipart
        import uvicorn
    except ImportError as error:
        raise UserError(f"serve needs {error.name}, which is not installed", _EXTRA) from None
    assert all((fastapi, prometheus_client, python_multipart, uvicorn))


def _settings(given: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from transferline.deploy.serve.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{str(part).replace('_', '-')}: " for part in first["loc"])
        what, _, fix = first["msg"].removeprefix("Value error, ").partition("; ")
        raise UserError(f"{option}{what}", fix) from None


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before the model is loaded: a port that is taken is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host: {host} is no address of this machine: {error.strerror}", "try 127.0.0.1") from None
    listening = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # where it would share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use", f"stop what uses it, or give --port {port + 1}"
            ) from None
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror}", "give another --host or --port") from None
    return listening


def _address(host: str, listening: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"
