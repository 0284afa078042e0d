"""A served model, and a browser that notes what it complains of and whom it asks."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.unit.deploy.conftest import make_card, make_deployed
from transferline.deploy import export
from transferline.deploy.predictor import Predictor

MARKUP = "<img src=x onerror=alert(1)>"
CLASSES = [MARKUP, "grün", "__proto__"]
MAX_BYTES = 300_000
_NO_BROWSER = "these tests need Chromium: apt-get install chromium"


@dataclass(frozen=True)
class Served:
    """A model behind `transferline serve`, and the same one as a predictor."""

    origin: str
    predictor: Predictor


@dataclass
class Visit:
    """The page in a browser's tab.

    Attributes:
        refused: statuses of answers to expect, which the browser reports as errors by itself.
        errors: everything else that it complains of.
        asked: addresses of all its requests.
    """

    page: Page
    refused: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def note(self, message: ConsoleMessage) -> None:
        refused = re.match(r"Failed to load resource: the server responded with a status of (\d+)", message.text)
        if message.type in ("error", "warning") and not (refused and int(refused[1]) in self.refused):
            self.errors.append(message.text)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = tmp_path_factory.mktemp("served") / "model.onnx"
    properties = export.metadata(replace(make_card(), classes=CLASSES), 1.7, export.Lineage("c0ffee", "5ha", "run"))
    export.write_onnx(make_deployed(), model, 20, properties)
    command = [Path(sys.executable).with_name("transferline"), "serve", model, "--port", "0"]
    process = subprocess.Popen([*command, "--max-bytes", str(MAX_BYTES)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        assert found, f"serve said {greeting!r}"
        yield Served(found[0], Predictor(model, threads=1))
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail(_NO_BROWSER, pytrace=False)
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    """A tab with the page; at the end nothing may have gone wrong in it, and it may have asked the service alone."""
    page = browser.new_page()
    visit = Visit(page)
    page.on("console", visit.note)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("dialog", lambda dialog: (visit.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: visit.asked.append(request.url))
    page.goto(served.origin)
    yield visit
    page.close()
    assert visit.errors == []
    own = (f"{served.origin}/", f"blob:{served.origin}/", "data:")
    assert [url for url in visit.asked if not url.startswith(own)] == []


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file whose name is markup."""
    path = tmp_path_factory.mktemp("pictures") / f"{MARKUP}.png"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(path)
    return path
