"""Marker names are planted in headers and file names, and everything that is written or returned is searched for them.

A file's name may come back to the person who sent it, and nowhere else; a header's text nowhere at all.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sgmsnet import dicom_seg, html_report, imaging
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import batch, compare_chart, truth
from sgmsnet.web.compare import compare
from sgmsnet.web.desk import Source
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT
from tests.security import mutate
from tests.security.asking import ask_page, ask_rest
from tests.security.serving import Running, fake_desk

HEADER, NAME = "Zebrowsk", "Quillfeather"
"""The first stands in headers alone, the second in file names alone."""

CHEST = draw_xray(200, 240, sick=((0.2, 0.5, 0.4, 0.7),))


def marked_dicom() -> bytes:
    data = mutate.dicom(
        CHEST,
        PatientName=f"{HEADER}^Ada",
        PatientID=f"{HEADER}-1",
        OtherPatientIDs=HEADER,
        PatientAddress=HEADER,
        PatientComments=HEADER,
        InstitutionName=HEADER,
        ReferringPhysicianName=HEADER,
        OperatorsName=HEADER,
        AccessionNumber=HEADER,
        StudyDescription=HEADER,
        SeriesDescription=HEADER,
        ImageComments=HEADER,
        ProtocolName=HEADER,
        DeviceSerialNumber=HEADER,
        StudyID=HEADER,
        PatientBirthDate="19700101",
        BodyPartExamined="CHEST",
        StudyInstanceUID="1.2.3.5",
        SeriesInstanceUID="1.2.3.6",
    )
    data = data.replace(b"19700101", HEADER.encode())  # not a date: pydicom complains of such values, and cites them
    assert data.count(HEADER.encode()) >= 16
    return data


def marked(format: str) -> bytes:
    """An X-ray with the marker wherever the format has room for text."""
    if format == "DICOM":
        return marked_dicom()
    image, buffer = Image.fromarray(CHEST), io.BytesIO()
    exif = image.getexif()
    exif[0x010E], exif[0x013B] = HEADER, HEADER
    if format == "PNG":
        texts = PngInfo()
        texts.add_text("Title", HEADER)
        texts.add_itxt("Author", HEADER)
        image.save(buffer, "PNG", pnginfo=texts, exif=exif)
    elif format == "JPEG":
        image.save(buffer, "JPEG", comment=HEADER, exif=exif)
    else:
        tags = ImageFileDirectory_v2()
        for tag in (270, 271, 272, 285, 305, 306, 315, 316):
            tags[tag] = HEADER
        image.save(buffer, "TIFF", tiffinfo=tags)
    assert HEADER.encode() in buffer.getvalue()
    return buffer.getvalue()


FORMATS = ("PNG", "JPEG", "TIFF", "DICOM")


def found_in(data: bytes | str, marker: str) -> bool:
    """Whether the marker stands in it: plainly, in other encodings, in base64, in a zip, or in an image's texts."""
    raw = data.encode() if isinstance(data, str) else data
    if any(marker.encode(code) in raw for code in ("utf-8", "utf-16-le", "utf-16-be")):
        return True
    if raw[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            return any(found_in(name, marker) or found_in(packed.read(name), marker) for name in packed.namelist())
    if raw[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(raw)) as image:
            return marker in repr(image.info)
    return any(
        found_in(base64.b64decode(text + b"=" * (-len(text) % 4)), marker)
        for text in re.findall(rb"[A-Za-z0-9+/]{40,}", raw)
    )


def test_the_search_finds_what_is_hidden() -> None:
    plain = f"...{NAME}...".encode() * 9
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/b.txt", plain)
    assert found_in(plain, NAME)
    assert found_in(json.dumps({"x": "data:a/b;base64," + base64.b64encode(plain).decode()}), NAME)
    assert found_in(packed.getvalue(), NAME)
    assert found_in(NAME.encode("utf-16-le"), NAME)
    assert not found_in(b"no such name here", NAME)


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_of_a_header_reaches_a_result(format: str, caplog: pytest.LogCaptureFixture) -> None:
    data = marked(format)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    prediction = Pipeline(FakeEngine(), thresholds={}, temperature={}).predict(data, name=f"{NAME}.dcm")
    logging.getLogger("pydicom").warning("what is logged elsewhere still is")
    told = [repr(prediction), repr(prediction.radiograph), json.dumps(prediction.record()), caplog.text]
    told.append(html_report.render(prediction))
    if format == "DICOM":
        told.append(dicom_seg.write_segmentation(prediction, data).decode("latin-1"))
    assert not any(found_in(text, HEADER) for text in told)
    assert NAME in prediction.record()["image"]
    assert NAME not in caplog.text
    assert "logged elsewhere" in caplog.text


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_s_refusal_tells_nothing_of_its_header(format: str, caplog: pytest.LogCaptureFixture) -> None:
    data = marked(format)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    sentences = []
    for number in range(120):
        try:
            imaging.load(mutate.damaged(number, [data], []), name="chest")
        except UnreadableImageError as error:
            sentences.append(str(error))
    assert len(sentences) > 5
    assert HEADER not in "".join(sentences)
    assert HEADER not in caplog.text


def test_a_segmentation_keeps_neither_name_nor_number() -> None:
    data = marked_dicom()
    prediction = Pipeline(FakeEngine(), thresholds={}, temperature={}).predict(data, name=f"{NAME}.dcm")
    written = dicom_seg.write_segmentation(prediction, data)
    assert not found_in(written, HEADER)
    assert not found_in(written, NAME)
    kept = dicom_seg.write_segmentation(prediction, data, keep_identity=True)
    assert found_in(kept, HEADER)  # so that the search above means something


@pytest.mark.parametrize("format", FORMATS)
def test_the_server_returns_and_keeps_nothing_of_a_header(servers: dict[str, Running], format: str) -> None:
    server, data = servers["plain"], marked(format)
    name = f"{NAME}{format}.bin"
    shown = ask_page(server.client, data, name=name, session=f"privacy{format}")
    answer = ask_rest(server.client, data, name=name)
    assert shown["error"] is None
    for told in (json.dumps(shown), json.dumps(answer)):
        assert not found_in(told, HEADER)
        assert NAME in told  # the sender's own result
    with httpx.Client(base_url=server.url, trust_env=False) as other:  # somebody else
        for path in (
            "/metrics",
            "/config",
            "/",
            "/v1/models",
            "/gradio_api/info",
            "/gradio_api/queue/status",
            "/ready",
        ):
            text = other.get(path).text
            assert HEADER not in text, path
            assert NAME not in text, path


def test_the_server_s_log_names_nobody_even_at_debug_level(servers: dict[str, Running]) -> None:
    server = servers["plain"]
    name = f"{NAME}.png"
    for data in (*(marked(format) for format in FORMATS), b"no image", marked("PNG")[:300], marked_dicom()[:900]):
        ask_page(server.client, data, name=name, session="log")
        server.client.post("/v1/segment", files={"file": (name, data)}, params={"masks": "none"})
    server.client.post("/v1/segment", files={name: data}, data={name: HEADER}, params={HEADER: name})
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "DEBUG" in log
    assert HEADER not in log
    assert NAME not in log


def test_the_command_line_writes_nothing_of_a_header(tiny_model: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for format in FORMATS:
        (folder / f"{NAME}-{format}.img").write_bytes(marked(format))
    (folder / f"{NAME}-broken.dcm").write_bytes(marked_dicom()[:-50])
    files = [str(path) for path in sorted(folder.iterdir())]
    command = [sys.executable, "-m", "sgmsnet", "predict", *files, "--output", str(output), "--model", str(tiny_model)]
    command += ["--engine", "onnxruntime", "--write", "masks,overlay,attention,report,seg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr  # for the broken one
    written = [path for path in output.rglob("*") if path.is_file()]
    assert len(written) >= 4 * 3
    assert not found_in(done.stdout + done.stderr, HEADER)
    for path in written:
        data = path.read_bytes()
        assert not found_in(data, HEADER), path
        if path.suffix == ".png":
            assert np.asarray(Image.open(io.BytesIO(data))).size
        if path.suffix == ".dcm":
            assert not found_in(data, NAME), path


@pytest.fixture
def uploads(tmp_path: Path) -> list[Path]:
    """One file of each format and a damaged one, with the markers in headers and names."""
    folder = tmp_path / "in"
    folder.mkdir()
    given = {f"{NAME}-{format}.img": marked(format) for format in FORMATS} | {
        f"{NAME}-broken.dcm": marked_dicom()[:-50]
    }
    for name, data in given.items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def test_a_batch_and_its_zip_hold_nothing_of_a_header(
    uploads: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    packed = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(uploads[0], f"{NAME}/inside.img")
    desk = fake_desk()
    caplog.clear()
    *_, last = batch.run(desk, [*uploads, packed], engine="fake", folder=tmp_path)
    assert last.archive is not None
    assert [row.status for row in last.rows].count("failed") == 1
    results = last.archive.read_bytes()
    with zipfile.ZipFile(io.BytesIO(results)) as made:
        assert len(made.namelist()) == 2 + 3 * (len(uploads))  # but for the broken one's, and with the packed one's
    told = [repr(last), caplog.text, desk.metrics.text().decode()]
    assert not any(found_in(text, HEADER) for text in [results, *told])
    assert found_in(results, NAME)  # the sender's own
    assert not any(found_in(text, NAME) for text in told[1:])


def test_comparisons_tell_nothing_of_a_header(
    uploads: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = fake_desk()
    texts = PngInfo()
    texts.add_text("Title", HEADER)
    mask = tmp_path / f"{NAME}-mask.png"
    Image.fromarray(CHEST).save(mask, pnginfo=texts)
    wrong = tmp_path / f"{NAME}.jpg"
    wrong.write_bytes(marked("JPEG"))
    caplog.clear()
    for path in uploads:
        source = Source.upload(str(path))
        if "broken" in path.name:
            with pytest.raises(UnreadableImageError) as refused:
                list(compare(desk, source, rounds=1))
            assert HEADER not in str(refused.value)
            continue
        *_, engines = compare(desk, source, rounds=1)
        prediction = desk.predict(path, name=path.name, engine="fake")
        assert engines.timed
        agreement = truth.judge(prediction, truth.read_mask(mask, height=200, width=240), name="lungs")
        picture = io.BytesIO()
        Image.fromarray(agreement.picture).save(picture, "PNG")
        for told in (
            repr(engines),
            compare_chart.render(engines, desk.standing()),
            repr(agreement),
            picture.getvalue(),
        ):
            assert not found_in(told, HEADER)
    with pytest.raises(UnreadableImageError) as refused:
        truth.read_mask(wrong, height=200, width=240)
    assert HEADER not in str(refused.value)
    assert HEADER not in caplog.text
    assert NAME not in caplog.text


def test_an_archive_s_done_list_and_tables_hold_nothing_of_a_header(
    uploads: list[Path], tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("pyarrow")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "sgmsnet", "predict", "--list", str(tmp_path / "list.txt")]
    command += ["--output", str(output), "--table", "parquet", "--model", str(tiny_model)]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in uploads))
    done = subprocess.run([*command, "--engine", "onnxruntime"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr  # for the broken one
    names = {path.name for path in output.iterdir() if path.is_file()}
    assert {"predictions.jsonl", "predictions.csv", "predictions.parquet", "archive.json"} <= names
    assert not found_in(done.stdout + done.stderr, HEADER)
    for path in output.rglob("*"):
        assert not path.is_file() or not found_in(path.read_bytes(), HEADER), path
    import pyarrow.parquet

    assert not found_in(repr(pyarrow.parquet.read_table(output / "predictions.parquet").to_pylist()), HEADER)
    assert not found_in((output / "archive.json").read_bytes(), NAME)
