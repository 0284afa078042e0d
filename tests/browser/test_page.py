"""The page at `/` in a real Chromium, against a real service."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Error, Locator, Page, Route, expect

from transferline.deploy import answers

from .conftest import CLASSES, MARKUP, MAX_BYTES, Served, Visit

pytestmark = pytest.mark.browser
NAMED = """([name, data]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0))], name));
    return transfer;
}"""
PASTE = (
    "(transfer) => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}))"
)


def drop(page: Page, *files: Path) -> None:
    """What the browser does when a person drops files: where the page did not take them, it would open the first."""
    tab = page.context.new_cdp_session(page)
    box = page.locator("#drop").bounding_box()
    assert box is not None
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        tab.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 50, "y": box["y"] + 50, "data": data})


def carried(page: Page, name: str, data: bytes):
    """A DataTransfer with one file of any name."""
    return page.evaluate_handle(NAMED, [name, base64.b64encode(data).decode()])


def answered(body: dict, status: int = 200, **headers: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, json=body, headers=headers)


def bars(card: Locator) -> list[tuple[str, str]]:
    rows = [card.locator(".probabilities li").nth(row) for row in range(card.locator(".probabilities li").count())]
    return [(row.locator(".class").inner_text(), row.locator(".percent").inner_text()) for row in rows]


def expected(served: Served, picture: Path) -> answers.Answer:
    return answers.answer(served.predictor, served.predictor.predict_file(picture))


def test_a_dropped_image_shows_what_predict_says(visit: Visit, served: Served, picture: Path) -> None:
    drop(visit.page, picture)
    card = visit.page.locator(".card.done")
    ranked = expected(served, picture).ranked
    expect(card.locator(".answer")).to_have_text(ranked[0][0])
    assert bars(card) == [(name, f"{100 * value:.1f} %") for name, value in ranked]
    expect(visit.page.get_by_role("status")).to_have_text(f"{picture.name}: {ranked[0][0]}")
    width = card.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    assert width == 60


def test_chosen_images_are_each_answered(visit: Visit, served: Served, picture: Path) -> None:
    visit.page.get_by_label("Drop images here").set_input_files([picture, picture, picture])
    expect(visit.page.locator(".card.done")).to_have_count(3)
    name = expected(served, picture).ranked[0][0]
    expect(visit.page.get_by_role("status")).to_have_text(f"3 images · 3 {name}")
    visit.page.get_by_role("button", name=f"Remove {picture.name}").first.click()
    expect(visit.page.locator(".card")).to_have_count(2)
    visit.page.get_by_role("button", name="Clear all").click()
    expect(visit.page.locator(".card")).to_have_count(0)
    expect(visit.page.get_by_role("status")).to_have_text("")


def test_a_pasted_image_is_answered(visit: Visit, served: Served, picture: Path) -> None:
    visit.page.evaluate(PASTE, carried(visit.page, "image.png", picture.read_bytes()))
    expect(visit.page.locator(".card.done .answer")).to_have_text(expected(served, picture).ranked[0][0])


def test_what_the_model_is_stands_on_the_page(visit: Visit) -> None:
    facts = visit.page.locator("#facts div")
    expect(facts).to_have_text(["Backbonetiny", "Variantfp32", "Input32 × 32", "Classes3"])
    expect(visit.page.locator("#classes")).to_have_text(" · ".join(CLASSES))


@pytest.mark.parametrize("content", [b"no image at all", None], ids=["text", "truncated"])
def test_a_broken_file_is_told_in_words(visit: Visit, picture: Path, content: bytes | None) -> None:
    visit.refused = {422}
    data = content or picture.read_bytes()[: picture.stat().st_size // 2]
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": carried(visit.page, "broken.png", data)})
    card = visit.page.locator(".card.wrong")
    expect(card.locator(".answer")).to_have_text("This file could not be read as an image")
    expect(card.locator(".hint")).not_to_be_empty()
    expect(card.get_by_role("button", name="Try again")).to_have_count(0)


def test_names_are_text_whatever_they_hold(visit: Visit, picture: Path) -> None:
    hostile = f"<script>alert(2)</script>\"'{MARKUP}\u202e.png"
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": carried(visit.page, hostile, picture.read_bytes())})
    card = visit.page.locator(".card.done")
    assert card.locator(".name").text_content() == hostile
    assert sorted(name for name, _ in bars(card)) == sorted(CLASSES)
    assert visit.page.locator("img").count() == 1  # the picture itself
    assert visit.page.locator("body script").count() == 1


def test_the_browser_lets_no_markup_and_no_other_script_in(visit: Visit) -> None:
    with pytest.raises(Error, match="TrustedHTML"):
        visit.page.evaluate("(markup) => { document.body.innerHTML = markup; }", MARKUP)
    with pytest.raises(Error, match="TrustedScript"):
        visit.page.evaluate("() => { document.createElement('script').text = 'alert(3)'; }")
    assert visit.errors  # it reports both
    visit.errors.clear()


def test_a_file_over_the_limit_is_not_sent(visit: Visit) -> None:
    transfer = carried(visit.page, "large.png", b"x" * (MAX_BYTES + 1))
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(visit.page.locator(".card.wrong .hint")).to_contain_text("the server takes 0.3 MB: it was not sent")
    transfer = carried(visit.page, "empty.png", b"")
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(visit.page.locator(".card.wrong .answer").last).to_have_text("This file is empty")
    assert not [url for url in visit.asked if url.endswith("/predict")]


def test_an_image_of_too_many_pixels_is_told_so(visit: Visit, picture: Path) -> None:
    visit.refused = {413}
    visit.page.route("**/predict", answered({"detail": "99 pixels are over the limit of 9"}, 413))
    drop(visit.page, picture)
    expect(visit.page.locator(".card.wrong .answer")).to_have_text("This image is too large")
    expect(visit.page.locator(".card.wrong .hint")).to_have_text("99 pixels are over the limit of 9")


def test_a_busy_service_is_asked_again(visit: Visit, served: Served, picture: Path) -> None:
    visit.refused = {503}
    visit.page.clock.install()
    busy = answered({"detail": "the queue is full"}, 503, **{"retry-after": "7"})
    visit.page.route("**/predict", busy, times=2)
    drop(visit.page, picture)
    for _ in range(2):
        expect(visit.page.locator(".card.waiting .hint")).to_have_text("The server is busy; trying again in 7 s")
        visit.page.clock.fast_forward(9_000)
        expect(visit.page.locator(".card.waiting .hint")).not_to_be_visible()
    expect(visit.page.locator(".card.done .answer")).to_have_text(expected(served, picture).ranked[0][0])
    assert len([url for url in visit.asked if url.endswith("/predict")]) == 3


def test_a_service_that_is_gone_is_told_and_asked_again_by_hand(visit: Visit, served: Served, picture: Path) -> None:
    visit.page.route("**/predict", lambda route: route.abort("connectionrefused"), times=1)
    drop(visit.page, picture)
    expect(visit.page.locator(".card.wrong .answer")).to_have_text("The server did not answer")
    visit.page.get_by_role("button", name="Try again").click()
    expect(visit.page.locator(".card.done .answer")).to_have_text(expected(served, picture).ranked[0][0])
    assert [text for text in visit.errors if "ERR_CONNECTION_REFUSED" not in text] == []
    visit.errors.clear()


def test_of_many_classes_the_likeliest_are_shown_first(visit: Visit, picture: Path) -> None:
    probabilities = {str(number): (number + 1) / 55 for number in range(10)}  # keys that JavaScript puts in order
    body = {"predictions": [{"class": "9", "probability": 10 / 55, "probabilities": probabilities}]}
    visit.page.route("**/predict", answered(json.loads(json.dumps(body))))
    drop(visit.page, picture)
    card = visit.page.locator(".card.done")
    expect(card.locator(".class")).to_have_text(["9", "8", "7", "6", "5"])
    card.get_by_role("button", name="Show all 10 classes").click()
    expect(card.locator(".class")).to_have_count(10)
    card.get_by_role("button", name="Show 5 classes").click()
    expect(card.locator(".class")).to_have_count(5)


@pytest.mark.parametrize(("labels", "answer"), [(["cat", "dog"], "cat, dog"), ([], "No label")])
def test_label_sets_are_shown_as_sets(visit: Visit, picture: Path, labels: list[str], answer: str) -> None:
    probabilities = {"cat": 0.9998, "dog": 0.7, "cow": 0.0001}
    visit.page.route("**/predict", answered({"predictions": [{"labels": labels, "probabilities": probabilities}]}))
    drop(visit.page, picture)
    card = visit.page.locator(".card.done")
    expect(card.locator(".answer")).to_have_text(answer)
    expect(card.locator(".given .class")).to_have_text(labels)
    assert bars(card) == [("cat", "> 99.9 %"), ("dog", "70.0 %"), ("cow", "< 0.1 %")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(visit: Visit, picture: Path, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.set_viewport_size({"width": 320, "height": 640})
    drop(visit.page, picture)
    expect(visit.page.locator(".card.done")).to_have_count(1)
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 320
    ground = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, ground[4:-1].split(","))) < 128) == (scheme == "dark")


def test_it_is_used_by_the_keyboard_alone(visit: Visit, picture: Path) -> None:
    visit.page.on("filechooser", lambda chooser: chooser.set_files(picture))  # at once: Chromium is told in its time
    visit.page.keyboard.press("Tab")
    expect(visit.page.get_by_label("Drop images here")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator(".card.done")).to_have_count(1)
    for _ in range(2):  # clear all, the card's cross
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator(".card")).to_have_count(0)
