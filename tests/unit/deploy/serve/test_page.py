"""The page as it is sent: one file, which the browser lets do nothing but what it is for. tests/browser uses it."""

import base64
import hashlib
import re

import pytest

from transferline.deploy.serve import page

from .conftest import in_loop, serving

SINKS = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|createContextualFragment"
)


@pytest.fixture(scope="module")
def sent() -> tuple[str, dict[str, str]]:
    return page.page(12_345)


def test_the_policy_allows_this_script_and_style_alone(sent: tuple[str, dict[str, str]]) -> None:
    text, headers = sent
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert policy["require-trusted-types-for"] == "'script'"


def test_nothing_is_loaded_from_elsewhere_and_no_attribute_is_code(sent: tuple[str, dict[str, str]]) -> None:
    text, _ = sent
    assert re.findall(r"(?:https?:)?//[\w.]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert re.findall(r"\b(?:src|href)=\"(?!data:image/svg)([^\"]*)", text) == ["openapi.json", "metrics", "healthz"]
    markup = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\s(?:on\w+|style)=|<!--", markup)


def test_text_never_becomes_markup(sent: tuple[str, dict[str, str]]) -> None:
    assert not re.search(SINKS, sent[0])


def test_it_knows_the_limit_on_bytes(sent: tuple[str, dict[str, str]]) -> None:
    assert '<body data-max-bytes="12345">' in sent[0]


@in_loop
async def test_it_is_at_the_root_and_not_in_the_schema(predictor) -> None:
    async with serving(predictor, max_bytes=777) as (_, client):
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.text == page.page(777)[0]
        assert "/" not in (await client.get("/openapi.json")).json()["paths"]
