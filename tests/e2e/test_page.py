"""The page in a real browser, from upload to mask, as a visitor meets it. app.py runs as its own process.

SGMSNET_TEST_MODEL names another model than the shipped one.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom import dcmread

from tests import needs

EXAMPLES = needs.ROOT / "examples"
CHEST = EXAMPLES / "covid_adult_1.jpg"
DICOM = EXAMPLES / "covid_adult_1.dcm"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
STILL = ("--disable-background-networking", "--disable-component-update")
START_S = 60
SETTLE_MS = 500

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """app.py on a free port, stopped again afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = os.environ.get("SGMSNET_TEST_MODEL", "cxr")
    log = tmp_path_factory.mktemp("page") / "log.txt"
    command = [sys.executable, "-m", "tests.e2e.serve", "--port", str(port), "--model", model]
    with log.open("w") as out, subprocess.Popen(command, cwd=needs.ROOT, stdout=out, stderr=out) as server:
        try:
            _wait_until_ready(server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)
    # A handler that failed writes its traceback here, whatever the visitor was shown.
    assert "Traceback" not in log.read_text()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_S
    while "is ready" not in log.read_text():
        if server.poll() is not None or time.monotonic() > give_up:
            pytest.fail(f"app.py did not start: {log.read_text()}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = needs.chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*QUIET, *STILL])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(address: str, browser: Browser) -> Iterator[OpenPage]:
    """Opens the page; at the end no request may have left this machine and the console must be free of errors."""
    pages: list[Page] = []
    requests: list[str] = []
    complaints: list[str] = []

    def opened(**context: Any) -> Page:
        page = browser.new_context(**{"viewport": DESKTOP, **context}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator(".sv")).to_have_attribute("data-state", "empty")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.context.close()
    assert complaints == []
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert outside == []


def upload(page: Page, path: Path) -> None:
    page.locator("#sg-upload input[type=file]").set_input_files(path)


def wait_for_result(page: Page, name: str) -> None:
    expect(page.locator(".sv")).to_have_attribute("data-state", "ready", timeout=15000)
    expect(page.locator(".sv-name")).to_have_text(name, timeout=15000)
    page.wait_for_function("Number(document.querySelector('.sv-canvas').dataset.drawn) > 0")
    page.wait_for_timeout(SETTLE_MS)  # the upload zone is emptied and the layout comes to rest


def pixels(page: Page) -> np.ndarray:
    """What is on the canvas, uint8 (H, W, 4), after everything that was asked for is painted."""
    uri = page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
            done(document.querySelector(".sv-canvas").toDataURL("image/png")))))"""
    )
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


def coloured(image: np.ndarray) -> int:
    """Pixels that are not grey: the X-ray is grey, the overlays are not."""
    rgb = image[..., :3].astype(int)
    return int((rgb.max(-1) - rgb.min(-1) > 60).sum())


def download(page: Page, label: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=label).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_upload_shows_masks_without_a_further_click(open_page: OpenPage, viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    assert coloured(pixels(page)) > 300
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert re.search(r"\d %", page.locator(".sv-total").inner_text())
    assert page.locator(".sv-times .sv-row").count() == 5
    expect(page.get_by_text("Not a medical device")).to_be_visible()


def test_the_next_file_can_be_uploaded_without_clearing_the_first(open_page: OpenPage) -> None:
    page = open_page()
    for path in (CHEST, EXAMPLES / "normal_child_1.jpg"):
        upload(page, path)
        wait_for_result(page, path.name)
        expect(page.locator("#sg-upload input[type=file]")).to_be_attached()


@pytest.mark.parametrize("name", ["chest.dcm", "chest"])
def test_dicom_is_known_by_its_content(open_page: OpenPage, tmp_path: Path, name: str) -> None:
    shutil.copy(DICOM, tmp_path / name)
    page = open_page()
    upload(page, tmp_path / name)
    wait_for_result(page, name)
    expect(page.locator(".sv-facts")).to_contain_text("DICOM")
    assert coloured(pixels(page)) > 300


def test_sixteen_bit_png_keeps_its_grey_values(open_page: OpenPage, tmp_path: Path) -> None:
    with Image.open(CHEST) as chest:
        deep = np.asarray(chest).astype(np.uint16) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    page = open_page()
    upload(page, tmp_path / "deep.png")
    wait_for_result(page, "deep.png")
    expect(page.locator(".sv-facts")).to_contain_text("16 bit")
    assert len(np.unique(pixels(page)[..., 0])) > 150


def test_an_example_is_one_click_or_the_enter_key(open_page: OpenPage) -> None:
    page = open_page()
    tiles = page.locator(".sg-example")
    tiles.first.click()
    wait_for_result(page, "covid_adult_1.jpg")
    expect(page.locator(".sv-credit")).to_contain_text("Hannover")
    tiles.nth(1).focus()
    page.keyboard.press("Enter")
    wait_for_result(page, "covid_adult_2.jpg")


def test_a_bad_file_is_one_sentence_and_the_page_keeps_working(open_page: OpenPage, tmp_path: Path) -> None:
    bad = tmp_path / "letter.png"
    bad.write_text("Dear reader, this is no picture.")
    page = open_page()
    upload(page, bad)
    alert = page.locator(".sv-error")
    expect(alert).to_be_visible(timeout=15000)
    assert alert.inner_text().startswith("letter.png")
    assert "\n" not in alert.inner_text()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    expect(alert).to_be_hidden()


def test_sliders_redraw_at_once_without_asking_the_server(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    before = pixels(page)
    page.locator(".sv-choice").get_by_text("Fill").click()
    for control, value in [
        ("[data-set=opacity]", "85"),
        ("[data-threshold=lungs]", "0.93"),
        ("[data-set=centre]", "90"),
        ("[data-set=width]", "120"),
        ("[data-set=split]", "50"),
    ]:
        page.locator(control).fill(value)
        after = pixels(page)
        assert (after != before).any(), control
        assert float(page.locator(".sv-canvas").get_attribute("data-draw-ms") or "nan") < 250
        before = after
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def test_share_follows_the_threshold_and_is_marked_approximate(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    exact = page.locator(".sv-card").first.inner_text()
    expect(page.locator(".sv-approx")).to_be_hidden()
    page.locator("[data-threshold=infection]").fill("0.02")
    expect(page.locator(".sv-approx")).to_be_visible()
    assert page.locator(".sv-areas").inner_text() not in exact
    page.get_by_role("button", name="Back to the model's thresholds").click()
    expect(page.locator(".sv-approx")).to_be_hidden()
    assert page.locator(".sv-card").first.inner_text() == exact


def test_each_attention_map_changes_the_picture_and_says_what_it_shows(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    plain = pixels(page)
    picker = page.get_by_label("Attention map")
    names = [option.get_attribute("value") for option in picker.locator("option").all()]
    assert len(names) > 1
    for name in filter(None, names):
        picker.select_option(name)
        assert (pixels(page) != plain).any(), name
        assert page.locator(".sv-sentence").inner_text().endswith(".")
    expect(page.get_by_text("It is not an explanation")).to_be_visible()


def test_masks_and_record_are_downloaded_at_the_thresholds_that_are_set(open_page: OpenPage, tmp_path: Path) -> None:
    path = EXAMPLES / "pneumonia_child_1.jpg"
    page = open_page()
    upload(page, path)
    wait_for_result(page, path.name)
    with Image.open(path) as image:
        size = image.size
    own = json.loads(download(page, "Record", tmp_path).read_text())
    page.locator("[data-threshold=lungs]").fill("0.3")
    record = json.loads(download(page, "Record", tmp_path).read_text())
    assert record["thresholds"] == {**own["thresholds"], "lungs": 0.3}
    assert (record["image"], record["width"], record["height"]) == (path.name, *size)
    assert record["areas_px"]["lungs"] > own["areas_px"]["lungs"]
    for label, name in (("Lungs mask", "lungs"), ("Infection mask", "infection")):
        with Image.open(download(page, label, tmp_path)) as mask:
            values = np.asarray(mask.convert("L"))
            assert mask.size == size
        assert np.count_nonzero(values == 255) == record["areas_px"][name]  # exact, not from the browser's small map
        assert set(np.unique(values)) <= {0, 255}
    with Image.open(download(page, "Overlay", tmp_path)) as overlay:
        assert max(overlay.size) == min(1024, max(size))


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
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.matches('.sv-stage')")
    page.keyboard.press("f")
    page.wait_for_function("!document.fullscreenElement")


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


def middle_of(page: Page) -> tuple[float, float]:
    """The canvas's middle, in pixels of the window."""
    box = page.locator(".sv-canvas").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_pointer_reads_drags_and_compares(open_page: OpenPage, tmp_path: Path) -> None:
    dataset = dcmread(DICOM)
    dataset.PixelSpacing = [0.25, 0.5]  # of rows, of columns
    dataset.save_as(tmp_path / "chest.dcm")
    page = open_page()
    upload(page, tmp_path / "chest.dcm")
    wait_for_result(page, "chest.dcm")
    middle = middle_of(page)
    page.mouse.move(*middle)
    readout = page.locator(".sv-readout")
    expect(readout).to_contain_text(re.compile(r"[\d.]+, [\d.]+ mm · grey \d+ · lungs 0\.\d\d · infection 0\.\d\d"))
    before = readout.inner_text()
    right, down = (float(part) for part in re.findall(r"[\d.]+", before)[:2])
    assert right == pytest.approx(2 * down, rel=0.02)  # the middle of a square picture with such pixels
    page.mouse.dblclick(*middle)
    expect(page.locator(".sv-canvas")).to_have_attribute("data-zoom", "2.50")
    page.mouse.down()
    page.mouse.move(middle[0] + 90, middle[1] + 40)
    page.mouse.up()
    page.mouse.move(*middle)
    assert readout.inner_text() != before  # the picture was dragged under the pointer
    page.mouse.dblclick(*middle)
    page.locator("[data-set=split]").fill("50")
    page.evaluate("scrollTo(0, 0)")  # the slider was scrolled into view
    middle = middle_of(page)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1])
    page.mouse.up()
    assert int(page.locator("[data-set=split]").input_value()) > 55
    expect(page.locator(".sv-canvas")).to_have_attribute("data-zoom", "1.00")


def test_an_unfamiliar_picture_is_refused_until_asked_for(open_page: OpenPage, tmp_path: Path) -> None:
    shutil.copy(CHEST, tmp_path / "hand.jpg")
    page = open_page()
    upload(page, tmp_path / "hand.jpg")
    wait_for_result(page, "hand.jpg")
    expect(page.get_by_text("This does not look like a frontal chest X-ray.")).to_be_visible()
    assert coloured(pixels(page)) == 0
    for hidden in (".sv-total", ".sv-downloads", ".sv-controls"):
        expect(page.locator(hidden)).to_be_hidden()
    assert "does not look like" in (page.locator(".sv-canvas").get_attribute("aria-label") or "")
    page.get_by_role("button", name="Show anyway").click()
    assert coloured(pixels(page)) > 300
    expect(page.locator(".sv-total")).to_be_visible()
    expect(page.locator(".sv-familiar")).to_have_text(re.compile("these figures mean nothing"))
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    expect(page.locator(".sv-familiar")).to_have_text("Looks like a frontal chest X-ray.")
    assert coloured(pixels(page)) > 300


def test_engines_are_compared_and_the_answer_stays(open_page: OpenPage) -> None:
    page = open_page()
    panel = page.locator("#sg-compare")
    panel.locator("button.label-wrap").click()
    start = page.get_by_role("button", name="Run all engines")
    start.click()
    expect(panel.get_by_role("alert")).to_have_text("Choose an X-ray first.")
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    start.click()
    expect(panel.locator("progress")).to_be_visible(timeout=30000)
    page.locator(".sg-example").nth(2).click()  # the visitor goes on meanwhile
    wait_for_result(page, "covid_adult_3.jpg")
    expect(panel.locator(".sg-caption")).to_have_text(re.compile(r"covid_adult_1.jpg, \d+ rounds"), timeout=120000)
    rows = panel.locator(".sg-compare table").first.locator("tbody tr")
    names = [row.locator("th").inner_text() for row in rows.all()]
    assert {"pytorch", "onnxruntime"} <= set(names)
    assert panel.locator(".sg-bar-track i").count() == len(names)
    reference = rows.nth(names.index("pytorch")).locator("td").all_inner_texts()
    assert reference[2:] == ["1.00 ×", "1.0000", "1.0000"]
    expect(panel.locator(".sg-missing")).to_contain_text("tensorrt")


def test_a_mask_of_one_s_own_gives_figures_and_a_difference(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    mask = download(page, "Lungs mask", tmp_path)
    panel = page.locator("#sg-truth")
    panel.locator("button.label-wrap").click()
    panel.get_by_label("Lungs").check()
    panel.locator("input[type=file]").set_input_files(mask)
    expect(panel.locator(".sg-figures")).to_have_text(
        re.compile(r"Dice\s*1.000\s*IoU\s*1.000\s*HD95\s*0.0 px"), timeout=15000
    )
    assert "0 pixels of lungs missed" in (panel.locator("figure img").get_attribute("alt") or "")
    page.locator("[data-threshold=lungs]").fill("0.95")
    page.get_by_role("button", name="Measure again").click()
    expect(panel.locator(".sg-caption")).to_have_text(re.compile("threshold 0.95$"), timeout=15000)
    assert "Dice1.000" not in re.sub(r"\s", "", panel.locator(".sg-figures").inner_text())
    Image.new("L", (50, 90)).save(tmp_path / "tall.png")
    panel.get_by_label("Remove").or_(panel.get_by_label("Clear")).first.click()
    panel.locator("input[type=file]").set_input_files(tmp_path / "tall.png")
    expect(panel.get_by_role("alert")).to_have_text(
        "tall.png: the mask is 50 by 90 pixels, but the X-ray is 1024 by 1024.", timeout=15000
    )


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
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=img]")]
          .filter((one) => one.checkVisibility() && !one.closest("[aria-hidden=true]"))
          .filter((one) => !(one.ariaLabel || one.labels?.length || one.title || one.innerText?.trim()))
          .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


def test_another_engine_runs_on_the_image_that_is_shown(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    run = page.locator(".sv-canvas").get_attribute("data-run")
    page.locator("#sg-engine input").click()
    page.get_by_role("option", name="onnxruntime").click()
    expect(page.locator(".sv-canvas")).not_to_have_attribute("data-run", run or "", timeout=15000)
    expect(page.locator(".sv-model")).to_contain_text("onnxruntime")
