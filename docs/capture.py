"""Takes the pictures of the page that README shows, with the shipped model and X-rays of examples/ alone.

    python -m docs.capture

writes page.png, page-dark.png, page-phone.png and page.webp (animated) beside this file. Needs Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from export.bench_click import serve
from sgmsnet.checkpoint import find

FOLDER = Path(__file__).resolve().parent
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
STILL = ("--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
DESKTOP, PHONE = {"width": 1440, "height": 1110}, {"width": 390, "height": 844}
FILM = {"width": 1240, "height": 1040}
FILM_WIDTH, FILM_BYTES = 860, 700_000
FRAME_MS, PAUSE_MS = 90, 1100


def main() -> int:
    """Take all pictures; returns the exit status."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        print("Chromium is not installed.", file=sys.stderr)
        return 1
    with serve(find("cxr")) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *STILL])
        for name, take in (("page.png", _light), ("page-dark.png", _dark), ("page-phone.png", _phone)):
            _save_png(take(browser, address), FOLDER / name)
        _save_film(list(_film(browser, address)), FOLDER / "page.webp")
        browser.close()
    return 0


def _light(browser: Browser, address: str) -> bytes:
    page = _opened(browser, address, viewport=DESKTOP)
    _show(page, "covid_adult_1.jpg")
    return page.screenshot()


def _dark(browser: Browser, address: str) -> bytes:
    page = _opened(browser, address, viewport=DESKTOP, color_scheme="dark")
    _show(page, "covid_adult_4.jpg")
    page.locator(".sv-choice").get_by_text("Fill").click()
    return page.screenshot()


def _phone(browser: Browser, address: str) -> bytes:
    page = _opened(browser, address, viewport=PHONE, device_scale_factor=2, has_touch=True)
    _show(page, "covid_adult_1.jpg")
    page.locator("[data-threshold=infection]").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    return page.screenshot()


def _film(browser: Browser, address: str) -> Iterator[tuple[bytes, int]]:
    """Screenshots with how long each is shown, in ms: what a visitor does in the first minute."""
    page = _opened(browser, address, viewport=FILM)

    def shot(shown_ms: int = FRAME_MS) -> tuple[bytes, int]:
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page.screenshot(), shown_ms

    def drag(control: str, values: list[float]) -> Iterator[tuple[bytes, int]]:
        for value in values:
            page.locator(control).fill(f"{value:g}")
            yield shot()

    yield shot(PAUSE_MS)
    _show(page, "covid_adult_1.jpg")
    yield shot(PAUSE_MS)
    for values in ([0.42, 0.34, 0.26, 0.18, 0.1], [0.2, 0.35, 0.5, 0.65, 0.8]):
        yield from drag("[data-threshold=infection]", values)
    yield shot(PAUSE_MS // 2)
    page.get_by_role("button", name="Back to the model's thresholds").click()
    for style in ("Fill", "Heat map", "Outline"):
        page.locator(".sv-choice").get_by_text(style).click()
        yield shot(PAUSE_MS)
    yield from drag("[data-set=split]", [20, 35, 50, 65, 80, 65, 50, 35, 20, 0])
    picker = page.get_by_label("Attention map")
    for name in ("gate_3", "spatial_3"):
        if picker.locator(f"option[value={name}]").count():
            picker.select_option(name)
            yield shot(PAUSE_MS)


def _opened(browser: Browser, address: str, **context: Any) -> Page:
    page = browser.new_context(**context).new_page()
    page.goto(address)
    page.wait_for_selector(".sv[data-state=empty]")
    page.wait_for_timeout(500)
    return page


def _show(page: Page, example: str) -> None:
    page.locator(f".sg-example[data-name='{example}']").click()
    page.wait_for_selector(".sv[data-state=ready]")
    page.wait_for_function("Number(document.querySelector('.sv-canvas').dataset.drawn) > 0")
    page.mouse.move(2, 2)
    page.wait_for_timeout(900)  # progress and layout come to rest


def _save_png(screenshot: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(screenshot)) as image:
        # 256 colours are a third of the bytes, and every picture stays in history.
        image.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    _say(path)


def _save_film(frames: list[tuple[bytes, int]], path: Path) -> None:
    """The best quality that stays within FILM_BYTES."""
    images = [_scaled(shot) for shot, _ in frames]
    times = [shown_ms for _, shown_ms in frames]
    for quality in (80, 65, 50, 35, 20):
        images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0, quality=quality, method=4)
        if path.stat().st_size <= FILM_BYTES:
            break
    _say(path)


def _scaled(screenshot: bytes) -> Image.Image:
    with Image.open(io.BytesIO(screenshot)) as image:
        size = (FILM_WIDTH, round(image.height * FILM_WIDTH / image.width))
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _say(path: Path) -> None:
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
