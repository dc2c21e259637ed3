"""About in a real browser: everything that its panel promises can be read, on a phone too, and the tab has our icon."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.visit import DESKTOP, PHONE, SETTLE_MS, OpenPage
from tests.needs import ROOT


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_about_has_card_data_licence_limits_citation_and_calls(
    open_page: OpenPage, address: str, viewport: dict[str, int]
) -> None:
    page = open_page(viewport=viewport)
    panel = page.locator("#sg-about")
    panel.locator("> button.label-wrap").click()
    headings = panel.locator(".block button.label-wrap")
    expect(headings.first).to_be_visible()
    for heading in headings.all():
        heading.click()
    expect(panel.get_by_text("gradio_client").first).to_be_visible(timeout=15000)  # Gradio's code blocks come late
    page.wait_for_timeout(SETTLE_MS)
    text = panel.inner_text()
    for words in (
        "Data",
        "QaTa-COV19 v2",
        "Licence of the weights",
        "You may not use them commercially",
        "Not for diagnosis",
        "Where it fails",
        "Figures on the validation parts",
        "Cite",
        "10.1109/CME67420.2025.11239364",
        "gradio_client",
        "httpx",
        f"curl -F file=@chest.png '{address}/v1/segment",
    ):
        assert words in text, words
    assert panel.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert min(cell.bounding_box()["width"] for cell in panel.locator("td").all()) > 60  # no letter below the other
    for table in panel.locator("table, pre").all():  # what is wider scrolls by itself
        box = table.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= viewport["width"]


def test_the_tab_has_an_icon_of_our_own(address: str) -> None:
    answer = httpx.get(f"{address}/favicon.ico", trust_env=False)  # where browsers look, as the page names no other
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.text == (ROOT / "sgmsnet" / "web" / "favicon.svg").read_text(encoding="utf-8")
    assert 'rel="icon"' not in httpx.get(address, trust_env=False).text


def test_no_two_examples_have_one_name(open_page: OpenPage) -> None:
    names = [re.sub(r"\s+", " ", tile.inner_text()) for tile in open_page().locator(".sg-example").all()]
    assert len(names) == len(set(names)) > 5
