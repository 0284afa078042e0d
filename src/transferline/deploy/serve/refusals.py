"""What a request is refused with: a status and JSON, in which nothing of the server is named."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

JSON = "application/json"
RETRY_AFTER_S = 1


class RefusalError(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP.
        reason: one word, for the metrics.
        detail: a sentence for whoever sent the request.
        images: those of several that cannot be used, with `index`, `name` and `reason`.
    """

    def __init__(self, status: int, reason: str, detail: str, images: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.images = status, reason, detail, images

    def response(self) -> Response:
        body = {"detail": self.detail} if self.images is None else {"detail": self.detail, "images": self.images}
        return as_json(body, self.status, {"retry-after": str(RETRY_AFTER_S)} if self.status == 503 else None)


def as_json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Bytes at once: the answer is our own, and needs no validation."""
    data = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    return Response(data, status, headers, JSON)
