"""The viewer's arithmetic in a real browser: outlines, shares of each lung, greys of 16 bits and their window."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from sgmsnet.imaging import load
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


def test_each_lung_has_the_share_of_its_own_side(blank: Page) -> None:
    """Lungs of 4 and 6 columns; all of the first is infected, a row of the second, and a pixel outside of both."""
    lungs, infection = np.zeros((10, 12), int), np.zeros((10, 12), int)
    lungs[2:8, 0:4], lungs[2:8, 5:11] = 255, 255
    infection[2:8, 0:4], infection[2, 5:11], infection[9, 6] = 200, 200, 200
    maps = {
        name: {"values": plane.ravel().tolist(), "width": 12, "height": 10}
        for name, plane in (("lungs", lungs), ("infection", infection))
    }
    thresholds, divider = {"lungs": 0.5, "infection": 0.4}, [4.5 / 12] * 10
    found = blank.evaluate("(given) => measureMaps(...given)", [maps, thresholds, divider])
    assert found["share"] == {"right": 1.0, "left": pytest.approx(6 / 36), "both": pytest.approx(30 / 60)}
    assert (found["areas"], found["outside"]) == ({"lungs": 60, "infection": 31}, 1)
    alone = blank.evaluate("(given) => measureMaps(...given)", [maps, thresholds, None])
    assert alone["share"] == {"right": None, "left": None, "both": pytest.approx(30 / 60)}


def test_greys_of_16_bits_come_whole_and_are_shown_as_the_server_shows_them(blank: Page) -> None:
    pixels = np.random.default_rng(3).integers(0, 4096, (20, 30)).astype(np.uint16)
    channels = np.stack([pixels >> 8, pixels & 255, np.zeros_like(pixels)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, "png")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    greys = blank.evaluate("async (uri) => Array.from((await decodeGrey(uri, true)).values)", uri)
    np.testing.assert_array_equal(np.array(greys).reshape(pixels.shape), pixels)
    radiograph = load(pixels)
    table = blank.evaluate("(given) => Array.from(windowTable(...given))", [4095, *radiograph.window])
    shown = np.array(table, np.uint32)[pixels] & 255
    assert np.abs(shown.astype(int) - radiograph.display).max() <= 1
    assert np.ptp(radiograph.display) > 200
