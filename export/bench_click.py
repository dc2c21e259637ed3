"""The page as a visitor meets it: from choosing a large PNG to the picture on the screen, in a real browser.

Needs Chromium and Playwright. Not here: what programs see (bench_page.py).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


def measure(files: ModelFiles, image: Path, *, clicks: int = 10) -> Click:
    """Choose a SIDE x SIDE PNG made of `image` 1 + `clicks` times; the first one warms up. Raises PageError."""
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
            browser.close()
        except sync_api.Error as error:
            raise PageError(f"the browser failed: {error.message.splitlines()[0]}") from error
        return summarise(times, megabytes=path.stat().st_size / 2**20)


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


def large_png(image: Path, folder: Path) -> Path:
    """An X-ray enlarged to SIDE x SIDE with the grain of a detector, without which a PNG packs too well."""
    with Image.open(image) as small:
        grey = np.asarray(small.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(0).normal(0, 2, grey.shape)
    path = folder / "large.png"
    Image.fromarray(np.clip(grey + grain, 0, 255).astype(np.uint8)).save(path)
    return path


def _choose(page: Any, path: Path) -> dict[str, float]:
    page.evaluate("() => performance.clearMarks()")
    page.set_input_files(_INPUT, path)
    page.wait_for_function(_DONE, timeout=_ANSWER_AT_MOST_MS)
    found: dict[str, float] = page.evaluate(_TIMES)
    page.wait_for_timeout(400)  # the drop zone is emptied meanwhile
    return found
