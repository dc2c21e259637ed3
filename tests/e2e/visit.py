"""What a visitor of the page does and sees, for the tests in a browser: upload, wait, look, download. No assertions."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests import needs

EXAMPLES = needs.ROOT / "examples"
CHEST = EXAMPLES / "covid_adult_1.jpg"
DICOM = EXAMPLES / "covid_adult_1.dcm"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
SETTLE_MS = 500

OpenPage = Callable[..., Page]


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


def hold_first(page: Page) -> Callable[[], None]:
    """Hold back the page's next call to the server, and let those after it pass; returns what lets it go."""
    held: list[Route] = []
    page.route(re.compile("/queue/join"), lambda route: route.continue_() if held else held.append(route))

    def let_go() -> None:
        while not held:  # it is sent a moment after what makes the page send it
            page.wait_for_timeout(20)
        held[0].continue_()

    return let_go


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


def middle_of(page: Page) -> tuple[float, float]:
    """The canvas's middle, in pixels of the window."""
    box = page.locator(".sv-canvas").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
