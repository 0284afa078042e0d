"""The README's pictures, taken of this project's own runs and report.

    uv run --with playwright python docs/screenshots.py [path of a Chromium or Chrome]

Needs a line that has run, and a browser.
"""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PORT = 5057
URL = f"http://127.0.0.1:{PORT}"
SERVER = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
SERVE_PORT = 5058
SERVE = [str(Path(sys.executable).with_name("transferline")), "serve", "models/onnx/model.onnx"]
BROWSER = sys.argv[1] if len(sys.argv) > 1 else "/usr/bin/chromium"


def wait_until_up(url: str, seconds: int = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).read()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    sys.exit(f"nothing came up at {url}")


def run_tree(page: Page) -> None:
    """The newest pipeline with its stages, and the trials beneath tune."""
    page.goto(f"{URL}/#/experiments/1/runs")
    page.wait_for_timeout(15_000)
    page.get_by_role("button", name="Close").first.click()  # the assistant's panel, which takes half the width
    page.wait_for_timeout(1_000)
    for name in ("pipeline", "tune"):
        link = page.locator("a", has_text=re.compile(rf"^{name}\b")).first.bounding_box()
        assert link is not None, f"no run called {name}"
        page.mouse.click(link["x"] - 32, link["y"] + link["height"] / 2)  # the plus sign before the name has no label
        page.wait_for_timeout(3_000)
    page.screenshot(path=DOCS / "mlflow.png")


def serving(browser: Browser) -> None:
    """The page of `transferline serve`, with an image of each class of the sample."""
    server = subprocess.Popen([*SERVE, "--port", str(SERVE_PORT)], cwd=ROOT)
    try:
        wait_until_up(f"http://127.0.0.1:{SERVE_PORT}/readyz")
        page = browser.new_page(viewport={"width": 1200, "height": 740})
        page.goto(f"http://127.0.0.1:{SERVE_PORT}")
        folders = sorted(path for path in (ROOT / "data" / "sample").iterdir() if path.is_dir())
        page.set_input_files("#files", [min(folder.iterdir()) for folder in folders])
        page.locator(".card.done").nth(len(folders) - 1).wait_for()
        page.wait_for_timeout(1_000)  # until the bars have grown
        page.screenshot(path=DOCS / "serve.png")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    server = subprocess.Popen([*SERVER, "--port", str(PORT), "--workers", "1"], cwd=ROOT)
    try:
        wait_until_up(f"{URL}/health")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            run_tree(page)
            page.goto((ROOT / "reports" / "evaluate" / "report.html").as_uri())
            page.screenshot(path=DOCS / "report.png")
            serving(browser)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
