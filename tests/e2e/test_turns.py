"""Comparing engines and batches run one visitor at a time: who waits is told so, can stop, and can start again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.visit import CHEST, OpenPage, upload, wait_for_result


def ready_to_compare(page: Page, folder: Path) -> str:
    """Get everything ready; returns the panel."""
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator("#sg-compare button.label-wrap").click()
    return "#sg-compare"


def ready_for_a_batch(page: Page, folder: Path) -> str:
    files = [folder / f"{number}.jpg" for number in range(60)]
    for file in files:
        file.write_bytes(CHEST.read_bytes())
    page.locator("#sg-batch > button.label-wrap").click()
    page.locator("#sg-batch-files input[type=file]").set_input_files(files)
    expect(page.locator("#sg-batch-files")).to_contain_text("59", timeout=15000)
    return "#sg-batch"


WORK = [(ready_to_compare, "Run all engines"), (ready_for_a_batch, "Run batch")]


@pytest.mark.parametrize(("ready", "label"), WORK, ids=["compare", "batch"])
def test_the_second_visitor_waits_and_may_stop(
    open_page: OpenPage, tmp_path: Path, ready: Callable[[Page, Path], str], label: str
) -> None:
    first, second = open_page(), open_page()
    for page in (first, second):
        where = ready(page, tmp_path)
    first.get_by_role("button", name=label).click()
    expect(first.locator(f"{where} progress")).to_be_visible(timeout=60000)
    panel, start = second.locator(where), second.get_by_role("button", name=label)
    start.click()
    expect(panel.get_by_role("status")).to_have_text("Waiting for its turn…", timeout=2000)
    expect(start).to_be_disabled()
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("alert")).to_have_text("Stopped. Nothing was kept.", timeout=15000)
    expect(start).to_be_enabled()
    expect(panel.get_by_role("button", name="Stop")).to_have_count(0)
    expect(first.locator(f"{where} progress")).to_be_visible()  # it was the second's alone that stopped
    panel, start = first.locator(where), first.get_by_role("button", name=label)
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("alert")).to_have_text("Stopped. Nothing was kept.", timeout=30000)
    expect(start).to_be_enabled()


def test_the_button_comes_back_at_the_end_and_after_a_refusal(browser: Browser, address: str, tmp_path: Path) -> None:
    page = browser.new_page()  # not open_page: the browser reports what is refused
    page.goto(address)
    panel, start = page.locator("#sg-batch"), page.get_by_role("button", name="Run batch")
    page.locator("#sg-batch > button.label-wrap").click()
    start.click()
    expect(panel.get_by_role("alert")).to_be_visible(timeout=15000)  # no files
    expect(start).to_be_enabled()
    expect(panel.get_by_role("button", name="Stop")).to_have_count(0)
    page.route(
        re.compile("/queue/join"), lambda route: route.fulfill(status=503, json={"detail": "The server is busy."})
    )
    start.click()
    expect(panel.get_by_role("alert")).to_have_text(re.compile("could not take this"), timeout=15000)
    expect(start).to_be_enabled()
    expect(panel.get_by_role("button", name="Stop")).to_have_count(0)
    page.close()
