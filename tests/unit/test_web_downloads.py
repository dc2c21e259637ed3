"""Overlay, report and segmentation as the page gets them: in the answer, at the thresholds set, without identity."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from sgmsnet import overlay
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import downloads
from sgmsnet.web.desk import Desk, Source
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT

AT = {"lungs": 0.5, "infection": 0.3}


@pytest.fixture(scope="module")
def desk() -> Desk:
    def open_pipeline(name: str) -> Pipeline:
        return Pipeline(FakeEngine(), thresholds={"lungs": 0.5, "infection": 0.5}, temperature={})

    return Desk(open_pipeline, probe=list, first="auto", examples=ROOT / "examples")


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """An uploaded DICOM file that names a patient."""
    dataset = dcmread(ROOT / "examples" / "covid_adult_1.dcm")
    dataset.PatientName, dataset.PatientID = "Mustermann^Erika", "PID-4711"
    dataset.save_as(tmp_path / "chest.dcm")
    return tmp_path / "chest.dcm"


def made(desk: Desk, source: Source, kind: str) -> tuple[str, bytes]:
    answer = downloads.make(desk, source, kind=kind, engine="auto", thresholds=AT)
    assert answer["error"] is None
    return answer["file"]["name"], base64.b64decode(answer["file"]["data"])


def test_a_segmentation_never_names_the_patient(desk: Desk, chest: Path) -> None:
    name, data = made(desk, Source.upload(str(chest)), "seg")
    assert name == "chest_seg.dcm"
    for secret in (b"Mustermann", b"Erika", b"PID-4711"):
        assert secret in chest.read_bytes()
        assert secret not in data
    segmentation = dcmread(io.BytesIO(data))
    assert segmentation.Modality == "SEG"
    parameters = segmentation.SegmentSequence[1].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "0.3" in str(parameters)


def test_a_report_stands_at_the_thresholds_asked_for(desk: Desk, chest: Path) -> None:
    name, data = made(desk, Source.upload(str(chest)), "report")
    assert name == "chest_report.html"
    assert "<td>0.3</td>" in data.decode()
    assert b"Mustermann" not in data
    _, data = made(desk, Source.example("covid_adult_1.jpg"), "report")
    assert "Hannover" in data.decode()


def test_an_overlay_has_the_size_of_the_image_and_the_outlines_at_the_thresholds(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "chest.png"
    Image.fromarray(draw_xray(1300, 1700, sick=((0.2, 0.5, 0.4, 0.7),))).save(path)
    name, data = made(desk, Source.upload(str(path)), "overlay")
    assert name == "chest_overlay.png"
    drawn = np.asarray(Image.open(io.BytesIO(data)))
    assert drawn.shape == (1300, 1700, 3)  # the viewer's own picture has at most 1024
    np.testing.assert_array_equal(drawn, overlay.draw(desk.predict(path, name="x", engine="auto", thresholds=AT)))


def test_what_cannot_be_made_is_one_sentence(desk: Desk, tmp_path: Path) -> None:
    def sentence(source: Source, kind: str, **thresholds: float) -> str:
        answer = downloads.make(desk, source, kind=kind, engine="auto", thresholds=thresholds)
        assert "file" not in answer
        return str(answer["error"])

    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    picture = Source.upload(str(tmp_path / "a.png"))
    assert sentence(picture, "seg") == "a.png: a DICOM segmentation can only be written for a DICOM file."
    assert sentence(picture, "pickle") == "There is no such download."
    assert "between 0 and 1" in sentence(picture, "report", infection=7.0)
    gone = tmp_path / "gone.dcm"
    shutil.copy(ROOT / "examples" / "covid_adult_1.dcm", gone)
    source = Source.upload(str(gone))
    gone.unlink()
    assert sentence(source, "seg") == "gone.dcm is no longer on the server; please upload it again."
