"""Files that are dropped and pasted anywhere on the page, in a real browser."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.visit import CHEST, SETTLE_MS, OpenPage, upload, wait_for_result

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
