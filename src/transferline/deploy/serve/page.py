"""The page at `/`, where a person drops images and sees their classes: one file, which loads nothing else."""

import base64
import hashlib
from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from transferline.deploy.serve.settings import Settings


def router(settings: Settings) -> APIRouter:
    """The route of `/`, which is not part of the schema."""
    text, headers = page(settings.max_bytes)
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def shown() -> Response:
        return Response(text, headers=headers, media_type="text/html")

    return routes


def page(max_bytes: int) -> tuple[str, dict[str, str]]:
    """The page, which refuses larger files unsent, and its headers: the browser runs this script and nothing else."""
    folder = resources.files(__package__)
    html, style, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    text = (
        html.replace('data-max-bytes="0"', f'data-max-bytes="{max_bytes}"')
        .replace("<!-- style -->", f"<style>{style}</style>")
        .replace("<!-- script -->", f"<script>{script}</script>")
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"  # the browser refuses innerHTML and its like
    )
    return text, {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
