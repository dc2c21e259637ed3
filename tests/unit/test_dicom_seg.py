"""DICOM segmentations, opened again with pydicom: masks bit for bit, references, geometry, and nobody's name."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from sgmsnet import dicom_seg
from sgmsnet.dicom_seg import SegmentationError, write_segmentation
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.unit.dicom_files import IMPLICIT, written

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
SECRETS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PID-4711-0815",
    "PatientBirthDate": "19640812",
    "OtherPatientIDs": "OTHER-99",
    "PatientAddress": "Hauptstrasse 7",
    "PatientComments": "Nachbarin von Meier",
    "AccessionNumber": "ACC-31337",
    "StudyID": "STUDY-55",
    "StudyDate": "20200229",
    "StudyTime": "010203",
    "ReferringPhysicianName": "Doctor^Strange",
    "OperatorsName": "Operator^Olga",
    "InstitutionName": "Klinikum Irgendwo",
    "StationName": "STATION7",
    "DeviceSerialNumber": "SERIAL-1234",
    "StudyDescription": "Thorax Erika",
    "ImageComments": "Frau M.",
}


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(FakeEngine(), thresholds={"lungs": 0.5, "infection": 0.5}, temperature={})


def chest(**elements: Any) -> Dataset:
    """A digital X-ray of 90 by 75 pixels that names its patient in every place there is."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.PixelSpacing, dataset.Modality = [0.2, 0.25], "DX"
    pixels = draw_xray(90, 75, sick=((0.2, 0.4, 0.4, 0.6),))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    for keyword, value in {**SECRETS, **elements}.items():
        setattr(dataset, keyword, value)
    return dataset


def without(*keywords: str) -> Dataset:
    dataset = chest()
    for keyword in keywords:
        delattr(dataset, keyword)
    return dataset


def predicted(pipeline: Pipeline, data: bytes) -> Prediction:
    return pipeline.predict(data, name="chest.dcm")


def frames(segmentation: Dataset) -> np.ndarray:
    """bool (K, H, W) from the packed bits, least significant first (DICOM PS3.5, 8.1.1)."""
    shape = (int(segmentation.NumberOfFrames), segmentation.Rows, segmentation.Columns)
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    return bits[: np.prod(shape)].reshape(shape).astype(bool)


def test_masks_come_back_bit_for_bit_at_the_chosen_threshold(pipeline: Pipeline) -> None:
    data = written(chest())
    prediction = predicted(pipeline, data).with_thresholds({"lungs": 0.9})
    segmentation = dcmread(BytesIO(write_segmentation(prediction, data)))
    got = frames(segmentation)
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["lungs", "infection"]
    for index, name in enumerate(("lungs", "infection")):
        assert got[index].any()
        np.testing.assert_array_equal(got[index], prediction.masks[name])
    np.testing.assert_array_equal(segmentation.pixel_array.astype(bool), got)  # as others will read it
    [algorithm] = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "threshold=0.9" in str(algorithm.AlgorithmParameters).replace('"', "").replace(": ", "=").replace("'", "")
    assert prediction.engine.model_sha256 in str(algorithm.AlgorithmParameters)


def test_an_empty_mask_is_an_empty_frame(pipeline: Pipeline) -> None:
    data = written(chest())
    prediction = predicted(pipeline, data).with_thresholds({"infection": 0.999})
    assert not prediction.masks["infection"].any()
    got = frames(dcmread(BytesIO(write_segmentation(prediction, data))))
    assert got.shape == (2, 90, 75)
    assert (got[0].any(), got[1].any()) == (True, False)


def test_it_refers_to_its_x_ray_and_lies_where_that_lies(pipeline: Pipeline) -> None:
    original = chest()
    data = written(original)
    segmentation = dcmread(BytesIO(write_segmentation(predicted(pipeline, data), data)))
    assert segmentation.SOPClassUID == SEGMENTATION_STORAGE
    assert segmentation.StudyInstanceUID == original.StudyInstanceUID
    assert segmentation.SeriesInstanceUID != original.SeriesInstanceUID
    assert segmentation.SOPInstanceUID != original.SOPInstanceUID
    assert UID(segmentation.SOPInstanceUID).is_valid
    assert segmentation.FrameOfReferenceUID == original.FrameOfReferenceUID
    [series] = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == original.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    for number, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPClassUID == original.SOPClassUID
        assert source.ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert source.SpatialLocationsPreserved == "YES"
    [shared] = segmentation.SharedFunctionalGroupsSequence
    assert [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.2, 0.25]
    assert (segmentation.Rows, segmentation.Columns) == (90, 75)


def test_nobody_is_named_anywhere_in_the_bytes(pipeline: Pipeline) -> None:
    data = written(chest())
    assert all(secret.encode() in data for secret in SECRETS.values())
    result = write_segmentation(predicted(pipeline, data), data)
    for keyword, secret in SECRETS.items():
        for part in secret.replace("^", " ").split():
            if part not in ("von", "7"):
                assert part.encode() not in result, keyword
    segmentation = dcmread(BytesIO(result))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        assert keyword in segmentation
        assert not segmentation.get(keyword)


def test_identity_is_kept_only_on_request_and_in_any_script(pipeline: Pipeline) -> None:
    data = written(chest(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen=山田^太郎"))
    segmentation = dcmread(BytesIO(write_segmentation(predicted(pipeline, data), data, keep_identity=True)))
    assert str(segmentation.PatientName) == "Müller^Jürgen=山田^太郎"
    for keyword in ("PatientID", "PatientBirthDate", "StudyID", "StudyDate", "AccessionNumber"):
        assert str(segmentation.get(keyword)) == SECRETS[keyword]
    assert "InstitutionName" not in segmentation
    assert "PatientAddress" not in segmentation


def test_a_file_without_preamble_and_without_optional_attributes_will_do(pipeline: Pipeline) -> None:
    bare = without("PixelSpacing", "FrameOfReferenceUID", "Modality", *SECRETS)
    data = written(bare, IMPLICIT, meta=False)
    assert data[128:132] != b"DICM"
    prediction = predicted(pipeline, data)
    segmentation = dcmread(BytesIO(write_segmentation(prediction, data)))
    np.testing.assert_array_equal(frames(segmentation)[0], prediction.masks["lungs"])
    assert "FrameOfReferenceUID" not in segmentation


@pytest.mark.parametrize("text", ["0.14\\", "0.14", "\\", "", "0.14\\0", "-0.2\\0.2", "1e9\\1e9"])
def test_a_spacing_that_cannot_be_true_is_left_out(pipeline: Pipeline, text: str) -> None:
    data = written(chest(PixelSpacing=["8.765", "8.765"]))
    value = text.encode().ljust(len(text) + len(text) % 2)
    before = struct.pack("<H", 12) + b"8.765\\8.765 "
    assert data.count(before) == 1
    data = data.replace(before, struct.pack("<H", len(value)) + value)
    prediction = predicted(pipeline, data)
    segmentation = dcmread(BytesIO(write_segmentation(prediction, data)))
    np.testing.assert_array_equal(frames(segmentation)[0], prediction.masks["lungs"])
    assert "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError])
def test_what_the_library_stumbles_over_is_one_sentence(
    pipeline: Pipeline, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise error("Mustermann^Erika is no valid value")

    monkeypatch.setattr(dicom_seg, "_segmentation", stumble)
    data = written(chest())
    with pytest.raises(SegmentationError, match=r"^chest\.dcm: no DICOM segmentation can be made") as caught:
        write_segmentation(predicted(pipeline, data), data)
    assert "Erika" not in str(caught.value)


@pytest.mark.parametrize(
    ("keyword", "spoken"),
    [
        ("SOPInstanceUID", "SOP Instance UID"),
        ("StudyInstanceUID", "Study Instance UID"),
        ("SeriesInstanceUID", "Series Instance UID"),
    ],
)
@pytest.mark.parametrize("value", [None, "", "PID-4711-0815"])
def test_a_missing_uid_is_one_sentence(
    pipeline: Pipeline, keyword: str, spoken: str, value: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = without(keyword)
    if value is not None:
        with disable_value_validation():
            dataset.add_new(keyword, "UI", value)
    with disable_value_validation():
        data = written(dataset, meta=False)
    with pytest.raises(SegmentationError) as caught:
        write_segmentation(predicted(pipeline, data), data)
    assert "4711" not in caplog.text
    assert str(caught.value) == (
        f"chest.dcm: a DICOM segmentation refers to its X-ray, and this file has no valid {spoken}."
    )


def test_what_is_no_dicom_file_is_one_sentence(pipeline: Pipeline) -> None:
    prediction = pipeline.predict(draw_xray(), name="chest.png")
    for source in (None, b"", b"\x89PNG\r\n\x1a\n" + bytes(200)):
        with pytest.raises(SegmentationError, match=r"^chest\.png: a DICOM segmentation can only be written for a"):
            write_segmentation(prediction, source)


def test_another_file_than_the_one_predicted_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    other = tmp_path / "other.dcm"
    other.write_bytes(written(chest()))
    with pytest.raises(SegmentationError, match="not of the size that was segmented"):
        write_segmentation(pipeline.predict(draw_xray(), name="chest.png"), other)


def test_lungs_and_infection_have_the_codes_of_lungs_and_of_an_opacity(pipeline: Pipeline) -> None:
    data = written(chest())
    segments = dcmread(BytesIO(write_segmentation(predicted(pipeline, data), data))).SegmentSequence
    coded = [
        (
            segment.SegmentLabel,
            segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning,
            segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning,
        )
        for segment in segments
    ]
    assert coded == [
        ("lungs", "Lung", "Anatomical Structure"),
        ("infection", "Opacity", "Morphologically Abnormal Structure"),
    ]


def test_classes_of_another_model_have_codes_of_their_own_in_any_script() -> None:
    names = ("pleural_effusion_left", "pleural_effusion_right", "läsion")
    engine = FakeEngine(info_with(classes=names))
    engine.LEVELS = (60.0, 100.0, 170.0)  # type: ignore[misc]
    data = written(chest())
    prediction = Pipeline(engine, thresholds={}, temperature={}).predict(data, name="chest.dcm")
    segmentation = dcmread(BytesIO(write_segmentation(prediction, data)))
    segments = segmentation.SegmentSequence
    assert tuple(segment.SegmentLabel for segment in segments) == names
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert len({kind.CodeValue for kind in kinds}) == 3
    assert all(len(kind.CodeValue) <= 16 and kind.CodingSchemeDesignator == "99SGMSNET" for kind in kinds)
    categories = {segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning for segment in segments}
    assert categories == {"Class of the model"}, "not an abnormality: nobody knows"


@pytest.mark.parametrize("kind", ["481.1", "12.1", "12.2"], ids=["RT image", "angiography", "fluoroscopy"])
def test_other_kinds_of_dicom_are_refused(pipeline: Pipeline, kind: str) -> None:
    data = written(chest(SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}"))
    with pytest.raises(SegmentationError, match="single projection X-rays alone"):
        write_segmentation(predicted(pipeline, data), data)


def test_the_example_is_written_without_a_spacing_of_its_own(pipeline: Pipeline) -> None:
    path = Path(__file__).parents[2] / "examples" / "covid_adult_1.dcm"
    prediction = pipeline.predict(path)
    segmentation = dcmread(BytesIO(write_segmentation(prediction, path)))
    np.testing.assert_array_equal(frames(segmentation)[1], prediction.masks["infection"])
    assert "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]
