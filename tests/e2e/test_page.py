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
    command = [sys.executable, "app.py", "--port", str(port), "--model", model]
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


def test_dark_mode_follows_the_system(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    back = page.locator(".sv-card").first.evaluate("card => getComputedStyle(card).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", back)[:3]) < 60


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


def test_masks_are_downloaded_at_the_size_of_the_image(open_page: OpenPage, tmp_path: Path) -> None:
    path = EXAMPLES / "pneumonia_child_1.jpg"
    page = open_page()
    upload(page, path)
    wait_for_result(page, path.name)
    page.locator("[data-threshold=lungs]").fill("0.3")  # one mask from the server, one made by the browser
    with Image.open(path) as image:
        size = image.size
    for label in ("Lungs mask", "Infection mask"):
        with Image.open(download(page, label, tmp_path)) as mask:
            assert mask.size == size
            assert set(np.unique(np.asarray(mask.convert("L")))) <= {0, 255}
    record = json.loads(download(page, "Record", tmp_path).read_text())
    assert (record["image"], record["width"], record["height"]) == (path.name, *size)
    assert record["timings_ms"]["run"] > 0


def test_the_picture_can_be_zoomed_with_the_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    canvas = page.locator(".sv-canvas")
    canvas.focus()
    page.keyboard.press("+")
    expect(canvas).to_have_attribute("data-zoom", "1.50")
    page.keyboard.press("0")
    expect(canvas).to_have_attribute("data-zoom", "1.00")
    assert "covid_adult_1.jpg" in (canvas.get_attribute("aria-label") or "")


def test_another_engine_runs_on_the_image_that_is_shown(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    run = page.locator(".sv-canvas").get_attribute("data-run")
    page.locator("#sg-engine input").click()
    page.get_by_role("option", name="onnxruntime").click()
    expect(page.locator(".sv-canvas")).not_to_have_attribute("data-run", run or "", timeout=15000)
    expect(page.locator(".sv-model")).to_contain_text("onnxruntime")
