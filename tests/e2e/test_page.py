"""The page in a real browser, from upload to mask, as a visitor meets it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from pydicom import dcmread

from tests.e2e.visit import (
    CHEST,
    DICOM,
    EXAMPLES,
    SETTLE_MS,
    OpenPage,
    coloured,
    download,
    hold_first,
    pixels,
    upload,
    wait_for_result,
)

FORMATS = {
    "chest.jpg": "JPEG",
    "chest.png": "PNG",
    "deep.png": "PNG, 16 bit",
    "chest.tif": "TIFF",
    "chest.dcm": "DICOM",
}


def choose_engine(page: Page, name: str) -> None:
    page.locator("#sg-engine input").click()
    page.get_by_role("option", name=name).click()


def in_format(name: str, folder: Path) -> Path:
    """The same X-ray as a file of the format that FORMATS says."""
    path = folder / name
    if name.endswith((".jpg", ".dcm")):
        shutil.copy(CHEST.with_suffix(path.suffix), path)
        return path
    with Image.open(CHEST) as chest:
        grey = np.asarray(chest.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257 if name == "deep.png" else grey).save(path)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_an_upload_of_each_format_shows_masks_without_a_further_click(
    open_page: OpenPage, tmp_path: Path, name: str
) -> None:
    page = open_page()
    upload(page, in_format(name, tmp_path))
    wait_for_result(page, name)
    expect(page.locator(".sv-facts")).to_have_text(f"1024 × 1024, {FORMATS[name]}")
    assert coloured(pixels(page)) > 300
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
    page = open_page()
    upload(page, in_format("deep.png", tmp_path))
    wait_for_result(page, "deep.png")
    assert len(np.unique(pixels(page)[..., 0])) > 150
    centre = page.locator("[data-set=centre]")
    before = float(centre.input_value())
    centre.press("ArrowLeft")
    assert before - float(centre.input_value()) == pytest.approx(65535 / 255)  # as far as in 8 bit


def test_an_example_is_one_click_or_the_enter_key(open_page: OpenPage) -> None:
    page = open_page()
    tiles = page.locator(".sg-example")
    tiles.first.click()
    wait_for_result(page, "covid_adult_1.jpg")
    expect(page.locator(".sv-credit")).to_contain_text("Hannover")
    expect(tiles.first).to_have_attribute("aria-current", "true")
    tiles.nth(1).focus()
    page.keyboard.press("Enter")
    wait_for_result(page, "covid_adult_2.jpg")
    current = page.locator(".sg-example[aria-current=true]")
    expect(current).to_have_attribute("data-name", "covid_adult_2.jpg")
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    expect(current).to_have_count(0)  # a file of the visitor's is shown, whatever its name


def test_what_is_chosen_while_one_runs_has_its_turn_afterwards(open_page: OpenPage) -> None:
    page = open_page()
    tiles, let_go = page.locator(".sg-example"), hold_first(page)
    for number in range(3):
        tiles.nth(number).click()
    let_go()
    wait_for_result(page, "covid_adult_3.jpg")  # the last one, and none between
    expect(tiles.nth(2)).to_have_attribute("aria-current", "true")
    page.unroute_all()
    let_go = hold_first(page)
    tiles.first.click()
    choose_engine(page, "onnxruntime")
    let_go()
    wait_for_result(page, "covid_adult_1.jpg")
    expect(page.locator(".sv-model")).to_contain_text("onnxruntime", timeout=15000)
    expect(page.locator(".sv-name")).to_have_text("covid_adult_1.jpg")


def test_an_engine_that_is_chosen_while_a_file_is_on_its_way_runs_on_that_file(open_page: OpenPage) -> None:
    page = open_page()
    page.locator(".sg-example").nth(1).click()
    wait_for_result(page, "covid_adult_2.jpg")
    let_go = hold_first(page)
    upload(page, CHEST)
    expect(page.locator("#sg-upload input[type=file]")).to_have_count(0)
    choose_engine(page, "onnxruntime")
    page.wait_for_timeout(SETTLE_MS)
    expect(page.locator(".sv-name")).to_have_text("covid_adult_2.jpg")
    expect(page.locator(".sv-model")).not_to_contain_text("onnxruntime")
    let_go()
    wait_for_result(page, CHEST.name)
    expect(page.locator(".sv-model")).to_contain_text("onnxruntime", timeout=15000)
    expect(page.locator(".sv-name")).to_have_text(CHEST.name)


def test_a_file_that_is_chosen_after_an_example_is_what_is_shown(open_page: OpenPage) -> None:
    page = open_page()
    tiles, let_go = page.locator(".sg-example"), hold_first(page)
    tiles.first.click()
    tiles.nth(1).click()
    upload(page, EXAMPLES / "normal_child_1.jpg")
    wait_for_result(page, "normal_child_1.jpg")
    waiting = tiles.nth(1).get_attribute("data-name")
    let_go()
    page.wait_for_timeout(1500)
    expect(page.locator(".sv-name")).to_have_text(
        re.compile("normal_child_1|covid_adult_1")
    )  # the latter had been sent
    assert waiting not in ("normal_child_1.jpg", "covid_adult_1.jpg")
    tiles.nth(2).click()
    wait_for_result(page, str(tiles.nth(2).get_attribute("data-name")))


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


def test_a_result_that_cannot_be_opened_is_one_sentence(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("() => { HTMLImageElement.prototype.decode = () => Promise.reject(new Error()); }")
    upload(page, CHEST)
    expect(page.locator(".sv-error")).to_have_text(
        "covid_adult_1.jpg was segmented, but this browser could not open the result.", timeout=15000
    )


def test_an_unfamiliar_picture_is_refused_until_asked_for(open_page: OpenPage, tmp_path: Path) -> None:
    shutil.copy(CHEST, tmp_path / "hand.jpg")
    page = open_page()
    upload(page, tmp_path / "hand.jpg")
    wait_for_result(page, "hand.jpg")
    expect(page.locator(".sv-refusal")).to_contain_text("This does not look like a frontal chest X-ray.")
    assert coloured(pixels(page)) == 0
    for hidden in (".sv-total", ".sv-downloads", ".sv-controls", ".sv-side-right", ".sv-legend"):
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


def test_a_header_that_speaks_against_it_is_told(open_page: OpenPage, tmp_path: Path) -> None:
    dataset = dcmread(DICOM)
    dataset.ViewPosition = "LL"
    dataset.save_as(tmp_path / "hand.dcm")
    page = open_page()
    upload(page, tmp_path / "hand.dcm")
    wait_for_result(page, "hand.dcm")
    note = "The file's header says that this is a lateral view."
    expect(page.locator(".sv-because")).to_have_text(note)
    page.get_by_role("button", name="Show anyway").click()
    expect(page.locator(".sv-familiar")).to_contain_text(note)
    shutil.copy(CHEST, tmp_path / "hand.jpg")
    upload(page, tmp_path / "hand.jpg")
    wait_for_result(page, "hand.jpg")
    expect(page.locator(".sv-refusal")).to_be_visible()
    expect(page.locator(".sv-because")).to_be_hidden()


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


def test_another_engine_runs_on_the_image_that_is_shown(open_page: OpenPage) -> None:
    page = open_page()
    upload(page, CHEST)
    wait_for_result(page, CHEST.name)
    run = page.locator(".sv-canvas").get_attribute("data-run")
    choose_engine(page, "onnxruntime")
    expect(page.locator(".sv-canvas")).not_to_have_attribute("data-run", run or "", timeout=15000)
    expect(page.locator(".sv-model")).to_contain_text("onnxruntime")
