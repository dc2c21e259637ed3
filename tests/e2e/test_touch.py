"""The page on a phone and under fingers, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.e2e.visit import CHEST, EXAMPLES, PHONE, OpenPage, coloured, middle_of, pixels, upload, wait_for_result

Points = list[tuple[float, float]]


@pytest.fixture
def phone(open_page: OpenPage) -> Page:
    """A phone that shows a result, with the picture in the middle of its screen."""
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator(".sv-canvas").evaluate("canvas => canvas.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(100)
    return page


def drag(page: Page, start: Points, end: Points, *, steps: int = 8) -> None:
    """One finger for each point goes straight from start to end and is lifted."""
    session: CDPSession = page.context.new_cdp_session(page)

    def send(kind: str, points: Points) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    for count in range(1, len(start) + 1):
        send("touchStart", start[:count])
    for step in range(1, steps + 1):
        part = step / steps
        send("touchMove", [(x + (u - x) * part, y + (v - y) * part) for (x, y), (u, v) in zip(start, end, strict=True)])
    send("touchEnd", [])


def zoom_of(page: Page) -> float:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return float(page.locator(".sv-canvas").get_attribute("data-zoom") or "nan")


def test_a_phone_shows_the_result_in_its_width(phone: Page) -> None:
    assert coloured(pixels(phone)) > 300
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_picture_and_share_stay_in_view_above_the_controls(phone: Page) -> None:
    slider = phone.locator("[data-threshold=infection]")
    slider.evaluate("slider => slider.scrollIntoView({ block: 'center' })")
    expect(slider).to_be_in_viewport(ratio=1)
    expect(phone.locator(".sv-canvas")).to_be_in_viewport(ratio=0.95)
    slider.fill("0.3")
    expect(phone.locator(".sv-live")).to_be_in_viewport(ratio=1)
    expect(phone.locator(".sv-live")).to_have_text(re.compile(r"^Infected share \d+ %, approximate$"))
    top, bottom = (
        phone.locator(name).evaluate("one => one.getBoundingClientRect()")[edge]
        for name, edge in (("[data-threshold=infection]", "top"), (".sv-canvas", "bottom"))
    )
    assert top >= bottom  # beside each other, not one over the other


def test_the_answer_stays_in_view_while_a_workstation_s_sliders_are_used(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 1366, "height": 700})
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator("[data-set=width]").evaluate("slider => slider.scrollIntoView({ block: 'end' })")
    page.wait_for_timeout(100)
    assert page.evaluate("scrollY") > 100
    for seen in ("[data-set=width]", ".sv-total", ".sv-approx", ".sv-canvas"):
        expect(page.locator(seen)).to_be_in_viewport(ratio=0.9)


def test_two_fingers_zoom_and_move_whichever_way_they_start(phone: Page) -> None:
    (x, y), scrolled = middle_of(phone), phone.evaluate("scrollY")
    drag(phone, [(x, y - 20), (x, y + 20)], [(x, y - 60), (x, y + 60)])
    assert zoom_of(phone) == pytest.approx(3, rel=0.05)
    before = pixels(phone)
    drag(phone, [(x - 40, y), (x + 40, y)], [(x - 10, y + 50), (x + 70, y + 50)])
    assert zoom_of(phone) == pytest.approx(3, rel=0.05)
    after = pixels(phone)
    assert (after[60:-20, 40:-20] == before[10:-70, 10:-50]).mean() > 0.9  # what was there is 30 and 50 px further
    assert phone.evaluate("scrollY") == scrolled


def test_one_finger_moves_the_enlarged_picture_and_scrolls_past_a_whole_one(phone: Page) -> None:
    (x, y), scrolled = middle_of(phone), phone.evaluate("scrollY")
    canvas = phone.locator(".sv-canvas")
    drag(phone, [(x - 20, y), (x + 20, y)], [(x - 60, y), (x + 60, y)])
    before = pixels(phone)
    drag(phone, [(x, y)], [(x, y + 40)])
    assert (pixels(phone) != before).any()
    assert phone.evaluate("scrollY") == scrolled
    upload(phone, EXAMPLES / "normal_child_1.jpg")
    wait_for_result(phone, "normal_child_1.jpg")
    assert canvas.evaluate("canvas => getComputedStyle(canvas).touchAction") == "pan-y"


def test_what_a_finger_read_stays_when_it_is_lifted(phone: Page) -> None:
    x, y = middle_of(phone)
    drag(phone, [(x, y)], [(x, y)], steps=1)
    expect(phone.locator(".sv-readout")).to_have_text(re.compile(r"px · grey \d+ · lungs"))
