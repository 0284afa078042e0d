"""A real MLflow server in a process of its own, which fails on command: its Flask application, run by werkzeug.

python mlflow_server.py FOLDER PORT, and then a mode a line on standard input, each answered by the same line:
up       serves
down     closes the port
failing  answers 503 to everything
lossy    does what it is told, and answers 503: the client cannot know that it was done
readonly answers 503 to uploads
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{FOLDER / 'server.db'}"
os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = str(FOLDER / "artifacts")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow.server import app, handlers  # noqa: E402 - reads its environment on import
from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: E402

Start = Callable[..., Any]
state = {"mode": "down"}


class Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


def failing(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    mode = state["mode"]
    health = environ["PATH_INFO"] == "/health"
    upload = environ["REQUEST_METHOD"] == "PUT"
    if mode == "lossy" and not health:
        for _ in app.wsgi_app(environ, lambda *_: lambda _: None):
            pass
    if mode == "failing" or (mode == "lossy" and not health) or (mode == "readonly" and upload):
        start("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"out of order"]
    answer: Iterable[bytes] = app.wsgi_app(environ, start)
    return answer


def main() -> None:
    handlers.initialize_backend_stores(os.environ["_MLFLOW_SERVER_FILE_STORE"], None, "mlflow-artifacts:/")
    server = None
    for line in sys.stdin:
        mode = state["mode"] = line.strip()
        if mode == "down" and server is not None:
            server.shutdown()
            server.server_close()
            server = None
        elif mode != "down" and server is None:
            server = make_server("127.0.0.1", PORT, failing, threaded=True, request_handler=Quiet)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        print(mode, flush=True)


if __name__ == "__main__":
    main()
