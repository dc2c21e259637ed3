"""The page's viewer in a real browser: what a visitor does with the masks that are there, by control and pointer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pydicom import dcmread

from tests.e2e.visit import (
    CHEST,
    DESKTOP,
    DICOM,
    EXAMPLES,
    PHONE,
    OpenPage,
    coloured,
    download,
    middle_of,
    pixels,
    upload,
    wait_for_result,
)
from tests.fakes import draw_xray
from tests.unit.dicom_files import made, written


def test_sliders_redraw_at_once_without_asking_the_server(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    before = pixels(page)
    page.locator(".sv-choice").get_by_text("Fill").click()
    took_ms: list[float] = []
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
        took_ms.append(float(page.locator(".sv-canvas").get_attribute("data-draw-ms") or "nan"))
        before = after
    # From the event until it is painted. 50 ms is for a quiet machine, where export/bench_click.py measures it.
    assert np.median(took_ms) < 100
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def test_on_a_screen_of_another_resolution_the_picture_fills_its_frame_again(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    small = pixels(page)
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setDeviceMetricsOverride", {**DESKTOP, "deviceScaleFactor": 2, "mobile": False})
    page.locator("[data-set=opacity]").fill("0")
    large = pixels(page)
    assert large.shape[0] == 2 * small.shape[0]
    for picture in (small, large):  # the chest lies in the middle of the frame, with black at both sides or none
        filled = np.flatnonzero(picture[..., :3].max(axis=(0, 2)) > 20)
        assert abs((filled[0] + filled[-1]) / picture.shape[1] - 1) < 0.05


def test_a_fill_at_the_lowest_threshold_leaves_what_is_surely_outside_grey(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    page.locator(".sv-choice").get_by_text("Fill").click()
    page.locator("[data-show=lungs]").evaluate("box => box.click()")
    page.locator("[data-threshold=infection]").fill("0.01")
    picture = pixels(page)[..., :3].astype(int)
    chest = picture[picture.max(axis=2) > 20]
    coloured = np.ptp(chest, axis=1) > 3
    assert 0.1 < coloured.mean() < 0.7, "with a soft edge that did not end at 0, all of it was"


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


def test_each_lung_s_figure_is_that_of_the_record_and_stands_at_its_side(open_page: OpenPage, address: str) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    with CHEST.open("rb") as file:
        record = httpx.post(f"{address}/v1/segment", files={"file": file}, trust_env=False).json()
    shares = record["infected_share"]
    assert abs(shares["right"] - shares["left"]) > 0.1, "they can be told apart"
    rows = page.locator(".sv-shares .sv-row")
    for number, side in enumerate(("right", "left")):
        expect(rows.nth(number)).to_contain_text(f"{side.capitalize()} lung")
        expect(rows.nth(number).locator(".sv-row-value")).to_have_text(f"{100 * shares[side]:.0f} %")
    expect(page.locator(".sv-total strong")).to_have_text(f"{100 * shares['both']:.0f} %")
    right, left = (page.locator(f".sv-side-{side}").bounding_box() for side in ("right", "left"))
    assert right["x"] < left["x"], "the patient's right is on the image's left"  # type: ignore[index]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_moves_under_the_finger_on_a_threshold(open_page: OpenPage, viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport)
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    slider = page.locator("[data-threshold=infection]")
    slider.scroll_into_view_if_needed()
    before, outside = slider.bounding_box(), page.locator(".sv-areas dd").nth(2)
    at_the_models = outside.inner_text()
    slider.fill("0.02")
    expect(page.locator(".sv-approx")).to_be_visible()
    assert slider.bounding_box() == before
    assert int(re.sub(r"\D", "", outside.inner_text())) > int(re.sub(r"\D", "", at_the_models))


def test_the_window_sliders_hold_a_window_wider_than_the_pixels_reach(open_page: OpenPage, tmp_path: Path) -> None:
    pixels_12 = draw_xray(300, 300).astype(np.uint16) * 9  # of 12 bits, of which the brightest needs 11
    assert pixels_12.max() < 2048
    path = tmp_path / "chest.dcm"
    path.write_bytes(written(made(pixels_12, WindowCenter=2048, WindowWidth=4096)))
    page = open_page()
    upload(page, path)
    wait_for_result(page, "chest.dcm")
    centre, width = page.locator("[data-set=centre]"), page.locator("[data-set=width]")

    def shown() -> list[tuple[float, float]]:
        """Where each slider stands, and the number beside it."""
        return [(float(one.input_value()), float(one.locator("+ output").inner_text())) for one in (centre, width)]

    step = 4095 / 255
    assert shown() == [(pytest.approx(2047.5, abs=step), 2048), (pytest.approx(4095, abs=0.5), 4095)]
    width.press("ArrowLeft")
    centre.press("ArrowLeft")
    for (stands, said), was in zip(shown(), (2047.5, 4095), strict=True):
        assert stands == pytest.approx(said, abs=0.5)
        assert 0 < was - said < 2 * step


def test_one_side_of_the_line_is_the_bare_x_ray(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    for box in page.locator("[data-show]").all():
        box.evaluate("box => box.click()")
    bare = pixels(page)
    assert coloured(bare) == 0
    page.get_by_label("Attention map").select_option(index=1)
    page.locator("[data-set=split]").fill("50")
    parted = pixels(page)
    third = bare.shape[1] // 3
    np.testing.assert_array_equal(parted[:, :third], bare[:, :third])
    assert (parted[:, -third:] != bare[:, -third:]).any()
    line = middle_of(page)[0]
    for side, text in (("left", "X-ray"), ("right", "Result")):
        box = page.locator(".sv-parted").get_by_text(text, exact=True).bounding_box()
        assert box is not None
        assert (box["x"] + box["width"] / 2 < line) == (side == "left")


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
        assert overlay.size == size


def test_lengths_and_areas_at_the_detector_say_so(open_page: OpenPage, tmp_path: Path) -> None:
    dataset = dcmread(DICOM)
    dataset.ImagerPixelSpacing = [0.14, 0.14]
    dataset.save_as(tmp_path / "chest.dcm")
    page = open_page()
    upload(page, tmp_path / "chest.dcm")
    wait_for_result(page, "chest.dcm")
    areas = page.locator(".sv-areas")
    expect(areas).to_have_text(re.compile(r"[\d,]+ px, [\d.]+ cm².*Areas in cm²\s*at the detector$"))
    page.mouse.move(*middle_of(page))
    expect(page.locator(".sv-readout")).to_contain_text(re.compile(r"[\d.]+, [\d.]+ mm at the detector · grey"))
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    expect(areas).not_to_contain_text("detector")


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
