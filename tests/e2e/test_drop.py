"""Files that are dropped and pasted anywhere on the page, in a real browser, and those that it cannot take now."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.visit import CHEST, SETTLE_MS, OpenPage, hold_first, upload, wait_for_result

# An event as the browser makes it of a file that comes from outside; says whether its own doing was prevented.
SEND = """([selector, kind, name, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const shared = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { ...shared, clipboardData: files })
    : new DragEvent(kind, { ...shared, dataTransfer: files });
  document.querySelector(selector).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def send(page: Page, selector: str, kind: str, path: Path = CHEST) -> bool:
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    page.locator(selector).first.wait_for()
    prevented: bool = page.evaluate(SEND, [selector, kind, path.name, text])
    return prevented


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The page with all that takes files: a dispatched event does not wait for what listens, as a click does."""
    opened = open_page()
    expect(opened.locator(".sg-example").first).to_be_visible()
    expect(opened.locator("#sg-upload button").first).to_be_visible()
    opened.wait_for_timeout(SETTLE_MS)  # Gradio binds what it shows a moment later
    return opened


@pytest.mark.parametrize("target", [".sv-blank", ".sg-banner", "#sg-upload button"])
def test_a_file_may_be_dropped_anywhere(page: Page, target: str) -> None:
    assert send(page, target, "dragover")
    if not target.startswith("#"):
        assert page.evaluate("document.body.classList.contains('sg-dragging')")
    assert send(page, target, "drop")
    assert not page.evaluate("document.body.classList.contains('sg-dragging')")
    wait_for_result(page, CHEST.name)


def test_the_next_file_may_be_dropped_on_the_picture(page: Page) -> None:
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    assert send(page, ".sv-canvas", "drop", CHEST.with_name("normal_child_1.jpg"))
    wait_for_result(page, "normal_child_1.jpg")


def test_a_picture_may_be_pasted(page: Page) -> None:
    send(page, "body", "paste")
    wait_for_result(page, CHEST.name)


def test_a_mask_dropped_on_its_own_zone_is_no_x_ray(page: Page) -> None:
    panel = page.locator("#sg-truth")
    panel.locator("button.label-wrap").click()
    expect(panel.locator(".sg-drop button").first).to_be_visible()
    assert send(page, ".sg-drop button", "dragover")
    send(page, ".sg-drop button", "drop")
    expect(panel.get_by_role("alert")).to_have_text("Choose an X-ray first.", timeout=15000)
    expect(page.locator(".sv")).to_have_attribute("data-state", "empty")


@pytest.mark.parametrize("way", ["drop on the page", "drop on the zone", "paste"])
def test_a_file_that_comes_while_one_is_on_its_way_is_told_to_wait(page: Page, way: str) -> None:
    let_go, wait = hold_first(page), page.locator("#sg-wait")
    upload(page, CHEST)
    expect(page.locator("#sg-upload input[type=file]")).to_have_count(0)
    kind, _, where = way.partition(" on the ")
    assert send(page, "#sg-upload" if where == "zone" else "body", kind, CHEST.with_name("normal_child_1.jpg")) == (
        kind == "drop"
    )
    expect(wait).to_have_text("Please wait until this X-ray is done.")
    let_go()
    wait_for_result(page, CHEST.name)
    expect(wait).to_be_hidden()
    send(page, "body", kind, CHEST.with_name("normal_child_1.jpg"))
    wait_for_result(page, "normal_child_1.jpg")


@pytest.mark.parametrize("status", [429, 503])
def test_after_a_request_that_was_refused_the_next_file_is_taken(browser: Browser, address: str, status: int) -> None:
    page = browser.new_page()  # not open_page: the browser reports what is refused
    page.goto(address)
    expect(page.locator("#sg-upload button").first).to_be_visible()
    page.wait_for_timeout(SETTLE_MS)
    calls, told = re.compile("/queue/join"), page.locator(".sv-error")
    page.route(calls, lambda route: route.fulfill(status=status, json={"detail": "The server is busy."}))
    for act in (lambda: upload(page, CHEST), lambda: page.locator(".sg-example").first.click()):
        page.evaluate("document.querySelector('.sv').dataset.state = 'empty'")
        act()
        expect(told).to_have_text("The server could not take this; please try again shortly.", timeout=15000)
        expect(told).to_be_visible()
        expect(page.locator("#sg-upload input[type=file]")).to_be_attached()
    page.unroute(calls)
    send(page, ".sg-banner", "drop")
    wait_for_result(page, CHEST.name)
    page.close()
