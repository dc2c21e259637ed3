"""The page as a visitor meets it, in a real browser: from choosing a large PNG to the picture, and redraws after it.

Needs Chromium and Playwright. Not here: what programs see (bench_page.py).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export import bench_page
from export.bench_page import PageError
from sgmsnet.checkpoint import ModelFiles

SIDE = 2048
PARTS = ("upload", "server", "drawing")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_STILL = ("--disable-background-networking", "--disable-component-update")
_ANSWER_AT_MOST_MS = 60_000
_INPUT, _VIEWER = "#sg-upload input[type=file]", ".sv"

CONTROLS = {
    "threshold": "[data-threshold] >> nth=-1",
    "window": "[data-set=centre]",
    "opacity": "[data-set=opacity]",
    "attention": "[data-set=strength]",
}
MOVES = 30
LARGEST = 1920, 1080
"""Width and height of the screen that the picture fills while redraws are timed."""

# The moment of choosing is the input's change event; the viewer sets the other two marks.
_LISTEN = """() => document.addEventListener("change", ({ target }) => {
  if (!target.matches("#sg-upload input[type=file]")) return;
  performance.clearMarks();
  performance.clearResourceTimings();
  performance.mark("chosen");
}, true)"""
_DONE = (
    """() => performance.getEntriesByName("chosen").length && performance.getEntriesByName("sgmsnet-drawn").length"""
)
_TIMES = """() => {
  const at = (name) => performance.getEntriesByName(name).at(-1).startTime;
  const sent = performance.getEntriesByType("resource").filter(({ name }) => /\\/upload(\\?|$)/.test(name)).at(-1);
  return { chosen: at("chosen"), sent: sent.responseEnd, answered: at("sgmsnet-result"), drawn: at("sgmsnet-drawn") };
}"""


# From the event until its picture is painted: pixels follow the frame's scripts, and a message comes after both.
_TIME_REDRAWS = """() => {
  window.redraws = [];
  document.addEventListener("input", ({ timeStamp }) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => window.redraws.push(performance.now() - timeStamp);
    port2.postMessage(null);
  }));
}"""


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """What `moves` steps of one slider took, from the input event until the canvas is painted, on a filled screen."""

    control: str
    bits: int
    width: int
    height: int
    """Of the canvas, in pixels."""
    moves: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Click:
    """Medians in ms over `clicks` uploads: from choosing the file to the first drawing of its result, and its parts."""

    side: int
    megabytes: float
    clicks: int
    median_ms: dict[str, float]
    """upload: until the server has the file; server: until its answer is parsed; drawing: decoding and painting."""
    together_ms: float
    slowest_ms: float
    redraws: tuple[Redraw, ...] = ()


def measure(files: ModelFiles, image: Path, *, clicks: int = 10) -> Click:
    """Choose a SIDE x SIDE PNG made of `image` 1 + `clicks` times; the first one warms up. Then move each of CONTROLS,
    for it and for one of 16 bit. Raises PageError.
    """
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise PageError("Chromium is not installed")
    try:
        from playwright import sync_api
    except ImportError:
        raise PageError("the package playwright is not installed") from None
    with tempfile.TemporaryDirectory() as folder, serve(files) as address, sync_api.sync_playwright() as playwright:
        path = large_png(image, Path(folder))
        try:
            browser = playwright.chromium.launch(executable_path=browser_path, args=[*_FLAGS, *_STILL])
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.goto(address)
            page.wait_for_selector(f"{_VIEWER}[data-state=empty]")
            page.evaluate(_LISTEN)
            times = [_choose(page, path) for _ in range(clicks + 1)][1:]
            page.set_viewport_size({"width": LARGEST[0], "height": LARGEST[1]})
            page.evaluate(_TIME_REDRAWS)
            redraws = _redraws(page, bits=8)
            _choose(page, large_png(image, Path(folder), bits=16))
            redraws += _redraws(page, bits=16)
            browser.close()
        except sync_api.Error as error:
            raise PageError(f"the browser failed: {error.message.splitlines()[0]}") from error
        return replace(summarise(times, megabytes=path.stat().st_size / 2**20), redraws=tuple(redraws))


@contextmanager
def serve(files: ModelFiles) -> Iterator[str]:
    """The page's address while it runs in a process of its own; raises PageError when it does not start."""
    port = bench_page._free_port()
    with bench_page._serving(files, port) as (process, start, output):
        bench_page._wait_until_ready(process, port, start, output)
        yield f"http://{bench_page._HOST}:{port}"


def summarise(times: list[dict[str, float]], *, megabytes: float) -> Click:
    """Medians of moments in ms by name (chosen, sent, answered, drawn), one dict a click."""
    moments = [[one[name] for name in ("chosen", "sent", "answered", "drawn")] for one in times]
    parts = np.diff(np.array(moments), axis=1)  # (clicks, 3)
    whole = parts.sum(axis=1)
    medians = np.median(parts, axis=0)
    return Click(
        side=SIDE,
        megabytes=megabytes,
        clicks=len(times),
        median_ms={name: float(value) for name, value in zip(PARTS, medians, strict=True)},
        together_ms=float(np.median(whole)),
        slowest_ms=float(whole.max()),
    )


def summarise_moves(taken_ms: list[float], *, control: str, bits: int, canvas: tuple[int, int]) -> Redraw:
    """Median and 95th percentile of the moves of one slider; canvas as (width, height)."""
    median, p95 = np.percentile(taken_ms, (50, 95))
    width, height = canvas
    return Redraw(
        control=control,
        bits=bits,
        width=width,
        height=height,
        moves=len(taken_ms),
        median_ms=float(median),
        p95_ms=float(p95),
    )


def large_png(image: Path, folder: Path, *, bits: int = 8) -> Path:
    """An X-ray enlarged to SIDE x SIDE with the grain of a detector, without which a PNG packs too well."""
    with Image.open(image) as small:
        grey = np.asarray(small.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(0).normal(0, 2, grey.shape)
    path = folder / f"large_{bits}.png"
    values = np.clip(grey + grain, 0, 255)
    Image.fromarray((values * 257).astype(np.uint16) if bits == 16 else values.astype(np.uint8)).save(path)
    return path


def _choose(page: Any, path: Path) -> dict[str, float]:
    page.evaluate("() => performance.clearMarks()")
    page.set_input_files(_INPUT, path)
    page.wait_for_function(_DONE, timeout=_ANSWER_AT_MOST_MS)
    found: dict[str, float] = page.evaluate(_TIMES)
    page.wait_for_timeout(400)  # the drop zone is emptied meanwhile
    return found


def _redraws(page: Any, *, bits: int) -> list[Redraw]:
    """Each of CONTROLS, in the style and with the maps that take longest, in full screen."""
    page.locator(".sv-choice").get_by_text("Fill").click()
    has_maps = page.locator("[data-set=attention] option").count() > 1
    if has_maps:
        page.locator("[data-set=attention]").select_option(index=1)
    page.locator(".sv-canvas").press("f")
    page.wait_for_function("document.fullscreenElement")
    page.wait_for_timeout(400)  # the frame has its new size
    canvas = tuple(page.evaluate("(({ width, height }) => [width, height])(document.querySelector('.sv-canvas'))"))
    found = [
        summarise_moves(_move(page, selector), control=control, bits=bits, canvas=canvas)
        for control, selector in CONTROLS.items()
        if has_maps or control != "attention"
    ]
    page.locator(".sv-canvas").press("f")
    return found


def _move(page: Any, selector: str) -> list[float]:
    """The time of each of MOVES steps to and fro in ms, after two that leave the model's threshold and warm up."""
    page.evaluate("() => { redraws.length = 0; }")
    page.locator(selector).focus()
    keys = ["ArrowLeft", "ArrowLeft", *(("ArrowLeft", "ArrowRight") * (MOVES // 2))]
    for count, key in enumerate(keys, start=1):
        page.keyboard.press(key)
        page.wait_for_function("count => redraws.length === count", arg=count)
    taken: list[float] = page.evaluate("redraws")
    return taken[2:]
