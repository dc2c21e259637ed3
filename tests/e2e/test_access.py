"""The page for those who use a keyboard, hear it, or need strong contrast; in a real browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.e2e.visit import CHEST, PHONE, SETTLE_MS, OpenPage, coloured, pixels, upload, wait_for_result


def test_the_keyboard_reaches_everything_in_the_picture(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    canvas = page.locator(".sv-canvas")
    canvas.focus()
    page.keyboard.press("+")
    expect(canvas).to_have_attribute("data-zoom", "1.50")
    before = pixels(page)
    page.keyboard.press("ArrowRight")
    assert (pixels(page) != before).any()
    page.keyboard.press("0")
    expect(canvas).to_have_attribute("data-zoom", "1.00")
    assert "covid_adult_1.jpg" in (canvas.get_attribute("aria-label") or "")
    page.keyboard.press("1")
    page.keyboard.press("2")
    assert "without overlay" in (canvas.get_attribute("aria-label") or "")
    assert coloured(pixels(page)) == 0
    page.keyboard.press("2")
    page.keyboard.press("o")
    assert "with fill of infection" in (canvas.get_attribute("aria-label") or "")
    page.keyboard.press("a")
    expect(page.locator(".sv")).to_have_attribute("data-attention", re.compile("."))
    page.keyboard.press("b")
    expect(page.locator("[data-set=split]")).to_have_value("50")
    page.keyboard.press("B")  # as with Caps Lock
    expect(page.locator("[data-set=split]")).to_have_value("0")
    keys = page.locator(f"#{canvas.get_attribute('aria-describedby')}")
    for gesture in ("wheel", "Double-click", "Pinch", "Drag"):
        expect(keys).to_contain_text(gesture)
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.matches('.sv-stage')")
    page.mouse.move(300, 400)
    page.mouse.wheel(0, -240)  # nothing is there to scroll, so it zooms without Ctrl
    expect(canvas).not_to_have_attribute("data-zoom", "1.00")
    page.keyboard.press("f")
    page.wait_for_function("!document.fullscreenElement")


def test_full_screen_fills_the_page_where_the_browser_has_none(open_page: OpenPage) -> None:
    page = open_page(viewport=PHONE)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    stage, button = page.locator(".sv-stage"), page.locator("[data-do=full]")
    stage.evaluate("stage => { stage.requestFullscreen = undefined; }")  # as on an iPhone
    for leave in (button.click, lambda: page.keyboard.press("Escape")):
        expect(button).to_have_attribute("aria-pressed", "false")
        button.click()
        assert stage.bounding_box() == {"x": 0, "y": 0, **PHONE}
        expect(page.locator("[data-set=opacity]")).to_be_in_viewport()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(button).to_have_attribute("aria-label", "Leave full screen")
        leave()
        expect(stage).not_to_have_class(re.compile("sv-full"))
        expect(button).to_have_attribute("aria-label", "Full screen")


def test_the_answer_is_heard(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    said = page.get_by_role("status").and_(page.locator(".sv-status"))
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    share = page.locator(".sv-total strong").inner_text()
    answer = r"of both lungs, 95 % interval [\d.]+ to [\d.]+ %; right lung [\d.]+ %, left lung [\d.]+ %\.$"
    expect(said).to_have_text(re.compile(rf"^covid_adult_1\.jpg\. Infected share: {share} {answer}"))
    page.locator("[data-threshold=infection]").fill("0.3")
    expect(said).to_have_text(re.compile(r"\. Infected share, approximate: \d+ % of both lungs; right lung"))
    shutil.copy(CHEST, tmp_path / "hand.jpg")
    upload(page, tmp_path / "hand.jpg")
    wait_for_result(page, "hand.jpg")
    expect(said).to_have_text(
        "hand.jpg: this does not look like a frontal chest X-ray. No result is shown.", timeout=2000
    )


def test_native_boxes_are_seen_where_the_system_chooses_the_colours(open_page: OpenPage) -> None:
    page = open_page(forced_colors="active")
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    for box in page.locator("[data-show], [name=sv-style]").all():
        looks = box.evaluate("(box) => { const look = getComputedStyle(box); return [look.opacity, look.appearance]; }")
        assert looks == ["1", "auto"]
        assert (box.bounding_box() or {"width": 0})["width"] >= 12


def test_the_focus_goes_through_the_page_in_reading_order(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator(".sg-example").last.focus()
    visited: list[str] = []
    for _ in range(16):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.dataset.do ?? document.activeElement.className"))
    order = [visited.index(name) for name in ("out", "fit", "in", "full", "sv-canvas")]
    assert order == sorted(order)


@pytest.mark.parametrize("height", [780, 480])
def test_the_focus_is_never_behind_the_answer(open_page: OpenPage, height: int) -> None:
    """WCAG 2.2, 2.4.11: going backwards, what has the focus comes in from above, where the answer stays."""
    page = open_page(viewport={"width": 1440, "height": height})
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator(".sv-keys summary").focus()
    visited: list[str] = []
    while True:
        page.keyboard.press("Shift+Tab")
        where = page.evaluate(WHAT_LIES_OVER_THE_FOCUS)
        if where is None:
            break
        name, over = where
        visited.append(name)
        assert over is None, (name, over)
    assert len(visited) > 8


# Its name, and what lies over its middle; None where the controls are left. A hidden input is seen as its label.
WHAT_LIES_OVER_THE_FOCUS = """() => {
  const focus = document.activeElement;
  if (!focus.closest(".sv-controls")) return null;
  const seen = focus.closest("label, button, select, summary");
  const box = seen.getBoundingClientRect();
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  return [focus.dataset.show ?? focus.dataset.threshold ?? focus.dataset.set ?? focus.value,
    seen.contains(top) ? null : top?.className ?? "outside the window"];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(open_page: OpenPage, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, for every visible text of the page; 3 to 1 for large text."""
    page = open_page(color_scheme=scheme)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    for panel in page.locator(".sg-panel > button.label-wrap, #sg-more button.label-wrap").all():
        panel.click()
    page.wait_for_timeout(SETTLE_MS)
    texts = page.evaluate(TEXTS_AND_COLOURS)
    assert len(texts) > 60
    weak = [(text, round(contrast(ink, back), 2)) for text, ink, back, least in texts if contrast(ink, back) < least]
    assert weak == []
    if scheme == "dark":
        back = page.locator(".sv-card").first.evaluate("card => getComputedStyle(card).backgroundColor")
        assert max(int(part) for part in re.findall(r"\d+", back)[:3]) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_stand_out_from_their_background(open_page: OpenPage, scheme: str) -> None:
    """WCAG 2.2, 1.4.11: 3 to 1 for what shows that there is a control."""
    page = open_page(color_scheme=scheme)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    for name in (".sv-toggle i", ".sv-choice", ".sv-pick select", "#sg-upload button"):
        border, back = page.locator(name).first.evaluate(
            """one => [getComputedStyle(one).borderTopColor, getComputedStyle(document.body).backgroundColor]
              .map((colour) => colour.match(/[\\d.]+/g).map(Number).slice(0, 3))"""
        )
        assert contrast(border, back) >= 3, name
    for state in ("on", "off"):
        for toggle in page.locator(".sv-toggle i").all():
            thumb, track = toggle.evaluate(
                """one => [getComputedStyle(one, "::after").backgroundColor, getComputedStyle(one).backgroundColor]
                  .map((colour) => colour.match(/[\\d.]+/g).map(Number).slice(0, 3))"""
            )
            assert contrast(thumb, track) >= 3, state
            toggle.click()
        page.wait_for_timeout(SETTLE_MS)


# Text, its colour and what lies behind it; not what stands on a picture, or cannot be used now.
TEXTS_AND_COLOURS = """() => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((part, k) => part * a + below[k] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgb(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const style = getComputedStyle(element);
    const text = node.textContent.trim();
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest(".sv-frame, .sv-hidden, :disabled, script, style, template")) continue;
    if (parseFloat(style.fontSize) === 0 || element.getBoundingClientRect().width < 2) continue;
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const back = behind(element);
    found.push([text.slice(0, 40), over(rgb(style.color), back), back, large ? 3 : 4.5]);
  }
  return found;
}"""


def contrast(ink: list[float], back: list[float]) -> float:
    """The ratio of WCAG 2.2 between two sRGB colours, each from 0 to 255."""

    def luminance(colour: list[float]) -> float:
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    one, other = sorted((luminance(ink), luminance(back)))
    return (other + 0.05) / (one + 0.05)


def test_every_picture_has_a_text_and_every_control_a_name(open_page: OpenPage) -> None:
    page = open_page(viewport=PHONE)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    for panel in page.locator(".sg-panel > button.label-wrap").all():
        panel.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("img:not([alt])").count() == 0
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=application]")]
          .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest("[aria-hidden=true]"))
          .filter((one) => !(one.ariaLabel || one.labels?.length || one.title || one.innerText?.trim()))
          .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
