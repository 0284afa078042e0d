"""What a service measures of itself, in Prometheus' form; each app has a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, exposition
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_GONE = 499  # the client closed the connection before it was answered


class Telemetry:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # its memory and CPU time
        self._requests = Counter(
            "transferline_requests", "Requests, by route and status", ("route", "status"), registry=self.registry
        )
        self._refused = Counter("transferline_refused", "Refused requests", ("reason",), registry=self.registry)
        self._images = Counter("transferline_images", "Images classified", registry=self.registry)
        self._batches = Histogram(
            "transferline_batch_images", "Images of a batch", registry=self.registry, buckets=_IMAGES
        )
        self._decoding = self._seconds("decoding", "Decoding of an image")
        self._waiting = self._seconds("waiting", "Wait of a decoded image for its batch")
        self._inference = self._seconds("inference", "One run of the model on a batch")
        self._answering = self._seconds("request", "A request for predictions, from its headers to its answer")
        self.requests = self.images = self.refusals = 0  # for the last line on the terminal

    def _seconds(self, what: str, documentation: str) -> Histogram:
        name = f"transferline_{what}_seconds"
        return Histogram(name, documentation, registry=self.registry, buckets=_SECONDS)

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"transferline_{name}", documentation, registry=self.registry).set_function(value)

    def decoded(self, seconds: float) -> None:
        self._decoding.observe(seconds)

    def ran(self, waited: list[float], took: float) -> None:
        """A batch of as many images as there are waits."""
        self._batches.observe(len(waited))
        self._inference.observe(took)
        for wait in waited:
            self._waiting.observe(wait)

    def answered(self, images: int, seconds: float) -> None:
        self.images += images
        self._images.inc(images)
        self._answering.observe(seconds)

    def refused(self, reason: str) -> None:
        self.refusals += 1
        self._refused.labels(reason).inc()

    def exposed(self) -> bytes:
        return exposition.generate_latest(self.registry)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """The app, with its requests counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = _GONE

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, watched)
            finally:
                self.requests += 1
                route = getattr(scope.get("route"), "path", "other")  # paths that do not exist are one
                self._requests.labels(route, status).inc()

        return counted
