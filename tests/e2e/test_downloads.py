"""What the page hands out, in a real browser: report, DICOM segmentation, and a batch's zip. One page for all tests.

SGMSNET_TEST_MODEL names another model than the shipped one.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from pydicom import dcmread

import sgmsnet
from tests import needs

EXAMPLES = needs.ROOT / "examples"
MODEL = os.environ.get("SGMSNET_TEST_MODEL", "cxr")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
STILL = ["--disable-background-networking", "--disable-component-update"]
START_S = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address, its folder for temporary files) of app.py on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("served")
    log = folder / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--model", MODEL, "--engine", "onnxruntime"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=needs.ROOT, stdout=out, stderr=out, env=environment) as server,
    ):
        try:
            give_up = time.monotonic() + START_S
            while "is ready" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", folder
        finally:
            server.terminate()
            server.wait(timeout=30)
    assert "Traceback" not in log.read_text()
    assert [path.name for path in folder.iterdir()] == ["log.txt"]  # nothing outlives the server


@pytest.fixture(scope="module")
def page(served: tuple[str, Path]) -> Iterator[Page]:
    """One page for the module; no request may leave this machine, and its console stays free of errors."""
    path, (address, _) = needs.chromium(), served
    complaints: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *STILL])
        opened = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        opened.on("request", lambda request: requests.append(request.url))
        opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(address)
        expect(opened.locator(".sv")).to_have_attribute("data-state", "empty")
        yield opened
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def shown(page: Page, path: Path) -> None:
    page.locator("#sg-upload input[type=file]").set_input_files(path)
    expect(page.locator(".sv-name")).to_have_text(path.name, timeout=30000)
    expect(page.locator(".sv")).to_have_attribute("data-state", "ready", timeout=30000)


def download(page: Page, label: str, folder: Path) -> Path:
    with page.expect_download(timeout=40000) as started:
        page.get_by_role("button", name=label).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """A DICOM X-ray that names a patient."""
    dataset = dcmread(EXAMPLES / "covid_adult_1.dcm")
    dataset.PatientName, dataset.PatientID = "Mustermann^Erika", "PID-4711"
    dataset.save_as(tmp_path / "chest.dcm")
    return tmp_path / "chest.dcm"


def test_a_dicom_x_ray_gets_a_segmentation_at_the_threshold_set_and_without_identity(
    page: Page, chest: Path, tmp_path: Path
) -> None:
    shown(page, chest)
    page.locator("[data-threshold=infection]").fill("0.3")
    path = download(page, "Segmentation (DICOM SEG)", tmp_path)
    assert path.name == "chest_seg.dcm"
    assert b"Mustermann" not in path.read_bytes()
    assert b"PID-4711" not in path.read_bytes()
    segmentation = dcmread(path)
    pipeline = sgmsnet.load(MODEL, engine="onnxruntime")
    expected = pipeline.predict(chest, thresholds={"infection": 0.3})
    pipeline.close()
    for frame, name in zip(segmentation.pixel_array, expected.classes, strict=True):
        np.testing.assert_array_equal(frame > 0, expected.masks[name])


def test_other_x_rays_get_none_but_a_report_that_needs_nothing_else(page: Page, tmp_path: Path) -> None:
    shown(page, EXAMPLES / "covid_adult_2.jpg")
    expect(page.get_by_role("button", name="Segmentation (DICOM SEG)")).to_have_count(0)
    path = download(page, "Report (HTML)", tmp_path)
    assert path.name == "covid_adult_2_report.html"
    total = page.locator(".sv-total strong").inner_text()
    report = page.context.new_page()
    asked: list[str] = []
    report.on("request", lambda request: asked.append(request.url))
    report.goto(path.as_uri())
    expect(report.locator("tbody").first).to_contain_text(total)
    expect(report.get_by_text("Not a medical device")).to_be_visible()
    for image in report.locator("img").all():
        assert image.evaluate("image => image.naturalWidth") > 500
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []
    sheet = report.pdf(format="A4", prefer_css_page_size=True)
    assert re.findall(rb"/Count (\d+)", sheet) == [b"1"]  # on one sheet of paper
    report.close()


def test_a_batch_fills_a_table_and_gives_one_zip(page: Page, served: tuple[str, Path], tmp_path: Path) -> None:
    archive, single = tmp_path / "ward.zip", tmp_path / "normal_adult_1.jpg"
    single.write_bytes((EXAMPLES / single.name).read_bytes())
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(EXAMPLES / "covid_adult_1.jpg", "monday/chest.jpg")
        packed.write(EXAMPLES / "covid_adult_1.dcm", "tuesday/chest.dcm")
        packed.writestr("letter.png", b"Dear reader, this is no picture.")
        packed.writestr("../out.png", b"x")
    page.get_by_text("Many X-rays at once").click()
    page.locator("#sg-batch-files input[type=file]").set_input_files([archive, single])
    expect(page.locator("#sg-batch-files")).to_contain_text("ward")
    page.get_by_role("button", name="Run batch").click()
    rows = page.locator(".sg-batch tbody tr")
    expect(page.locator(".sg-batch [role=status]")).to_have_text("5 of 5, 2 failed", timeout=60000)
    assert [row.get_attribute("data-status") for row in rows.all()] == ["done", "done", "failed", "failed", "done"]
    expect(rows.nth(2)).to_contain_text("this is not a PNG, JPEG, TIFF or DICOM file.")
    expect(rows.nth(3)).to_contain_text("its path leads out of the archive.")
    path = download(page, "Download results (zip)", tmp_path)
    assert re.fullmatch(r"sgmsnet-batch-\w+\.zip", path.name)
    with zipfile.ZipFile(path) as results:
        names = set(results.namelist())
        lines = list(csv.DictReader(io.StringIO(results.read("predictions.csv").decode())))
        records = [json.loads(line) for line in results.read("predictions.jsonl").decode().splitlines()]
        with Image.open(io.BytesIO(results.read("masks/normal_adult_1_lungs.png"))) as mask:
            assert np.count_nonzero(np.asarray(mask)) == records[4]["areas_px"]["lungs"]
    for stem in ("chest", "chest_2", "normal_adult_1"):
        assert {f"masks/{stem}_lungs.png", f"masks/{stem}_infection.png", f"overlays/{stem}.jpg"} <= names
    assert [line["file"] for line in lines][:2] == ["monday/chest.jpg", "tuesday/chest.dcm"]
    assert [record["error"] is None for record in records] == [True, True, False, False, True]
    # On the server lies the archive and nothing that it was made from; the janitor deletes it with the uploads.
    assert [left.name for left in served[1].rglob("batch-*/*")] == [path.name]


def test_a_batch_of_too_many_files_is_one_sentence(page: Page, tmp_path: Path) -> None:
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(201):
            packed.writestr(f"{number}.png", b"x")
    page.locator("#sg-batch-files button[aria-label=Clear]").first.click()
    page.locator("#sg-batch-files input[type=file]").set_input_files([archive])
    expect(page.locator("#sg-batch-files")).to_contain_text("many")
    page.get_by_role("button", name="Run batch").click()
    expect(page.locator("#sg-batch .sg-problem")).to_have_text(
        "These are 201 files; a batch takes at most 200.", timeout=30000
    )
    expect(page.get_by_role("button", name="Download results (zip)")).to_have_count(0)


def test_a_batch_that_is_stopped_leaves_nothing(page: Page, served: tuple[str, Path], tmp_path: Path) -> None:
    before = set(served[1].rglob("batch-*"))
    archive = tmp_path / "long.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(100):
            packed.write(EXAMPLES / "covid_adult_1.jpg", f"{number}.jpg")
    page.locator("#sg-batch-files button[aria-label=Clear]").first.click()
    page.locator("#sg-batch-files input[type=file]").set_input_files([archive])
    expect(page.locator("#sg-batch-files")).to_contain_text("long")
    page.get_by_role("button", name="Run batch").click()
    expect(page.locator(".sg-batch tbody tr[data-status=done]").first).to_be_attached(timeout=30000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#sg-batch .sg-problem")).to_have_text("Stopped. Nothing was kept.", timeout=30000)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    give_up = time.monotonic() + 10
    while set(served[1].rglob("batch-*")) != before:
        assert time.monotonic() < give_up
        time.sleep(0.1)
