"""The OpenAPI schema of the service holds: requests made from it, right and wrong, are answered as it says."""

import io
from collections import Counter

import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import strategies as st
from PIL import Image
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events

from transferline.deploy.serve.app import create_app
from transferline.deploy.serve.settings import Settings

EXAMPLES = 100  # of each operation, in each phase
CONFIG = {
    "seed": 0,
    "workers": 1,
    "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
    "checks": {
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 503]},
        "positive_data_acceptance": {"enabled": False},  # bytes that fit the schema may still be no image
    },
}


def images() -> st.SearchStrategy[bytes]:
    """Files of a few pixels, so that some requests have an answer, and bytes of all kinds."""
    return st.builds(_file, st.sampled_from(["PNG", "JPEG", "BMP", "GIF"]), st.integers(8, 12)) | st.binary()


def _file(kind: str, side: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 20 * side, np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def scenarios(predictor) -> list[events.ScenarioFinished]:
    """All that schemathesis does: examples, the edges of every value, random requests, sequences of them."""
    torch.set_flush_denormal(False)  # a training in this process has set it, and hypothesis draws subnormal numbers
    schemathesis.openapi.format("binary", images())
    for kind in ("image/*", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, images())
    app, config = create_app(predictor, Settings(max_bytes=100_000)), SchemathesisConfig.from_dict(CONFIG)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    seen = list(engine.from_schema(schema).execute())
    broken = [event for event in seen if isinstance(event, events.NonFatalError | events.FatalError)]
    assert not broken, [getattr(event, "value", None) or event.exception for event in broken]
    return [event for event in seen if isinstance(event, events.ScenarioFinished)]


def test_what_is_answered_conforms_to_the_schema(scenarios) -> None:
    checks = [check for each in scenarios for found in each.recorder.checks.values() for check in found]
    failures = {
        str(check.failure_info.failure): check.failure_info.code_sample for check in checks if check.failure_info
    }
    assert not failures
    assert {"not_a_server_error", "response_schema_conformance", "status_code_conformance"} <= {c.name for c in checks}


def test_every_operation_was_asked_and_images_were_classified(scenarios) -> None:
    statuses: Counter[tuple[str, int]] = Counter()
    for each in scenarios:
        for case_id, interaction in each.recorder.interactions.items():
            path = each.recorder.cases[case_id].value.operation.path
            statuses[path, interaction.response.status_code] += 1
    assert statuses["/predict", 200] > EXAMPLES // 20
    assert statuses["/predict", 422] > EXAMPLES // 2
    assert all(statuses[path, 200] for path in ("/healthz", "/readyz", "/model"))
