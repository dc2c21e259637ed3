"""The viewer's arithmetic in a real browser: an outline goes round the pixels above the threshold, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.needs import ROOT

INSIDE = """([rows, threshold]) => {
  const [height, width] = [rows.length, rows[0].length];
  const path = contour({ values: rows.flat(), width, height }, threshold);
  const target = new OffscreenCanvas(width, height).getContext("2d");
  return rows.map((row, y) => row.map((_, x) => target.isPointInPath(path, x + 0.5, y + 0.5, "evenodd")));
}"""


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Page:
    page = browser.new_page()
    page.add_script_tag(content=(ROOT / "sgmsnet" / "web" / "pixels.js").read_text(encoding="utf-8"))
    return page


def _maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[0:40, 0:56]
    ring = np.abs(np.hypot(rows - 18, columns - 25) - 11) < 4
    return {
        "noise": rng.integers(0, 256, (23, 31)),
        "corners that touch": (np.indices((9, 12)).sum(0) % 2) * 255,
        "a ring": ring * 200 + rng.integers(0, 40, ring.shape),
        "up to the border": np.full((7, 5), 255),
        "one pixel": np.pad([[255]], 3),
        "nothing": np.zeros((6, 6), int),
    }


@pytest.mark.parametrize("name", list(_maps()))
@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.6])
def test_an_outline_goes_round_what_is_above_the_threshold(blank: Page, name: str, threshold: float) -> None:
    values = _maps()[name]
    inside = np.array(blank.evaluate(INSIDE, [values.tolist(), threshold]))
    np.testing.assert_array_equal(inside, values > threshold * 255 + 0.01)
