"""Masks as a DICOM segmentation that belongs to the X-ray they were made for. Reads no pixels and draws nothing.

The segmentation is built from a dataset that holds UIDs and geometry alone, so that nothing else of the X-ray's file
can reach it. Who the patient is gets added afterwards, and only where that was asked for.
"""

from __future__ import annotations

import hashlib
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import sgmsnet
from sgmsnet import imaging, overlay
from sgmsnet.measurements import INFECTION, LUNGS
from sgmsnet.prediction import Prediction
from sgmsnet.radiograph import DECODING_ERRORS, quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_UIDS = {
    "SOPClassUID": "SOP Class UID",
    "SOPInstanceUID": "SOP Instance UID",
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
}
_FRAME = "FrameOfReferenceUID"
_GEOMETRY = ("Rows", "Columns", "PixelSpacing")
_IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "7")
)
"""Radiography, mammography, dental, secondary capture. Angiography and fluoroscopy have frames, of which highdicom
wants what an X-ray does not tell."""


class SegmentationError(ValueError):
    """One sentence for a person on why no segmentation can be written; starts with the name given for the file."""


def write_segmentation(prediction: Prediction, source: bytes | Path | None, *, keep_identity: bool = False) -> bytes:
    """A DICOM file with the prediction's masks as binary segments, in the order of its classes.

    source is the DICOM file that was predicted. The patient's fields are empty unless keep_identity. The spacing is
    that of PixelSpacing, as in the X-ray; ImagerPixelSpacing is left out. Raises SegmentationError for what is no
    DICOM file, for one that lacks what a segmentation must refer to, and for one whose size differs; OSError for a
    missing file.
    """
    original = _read(source, prediction.image, wanted=_IDENTITY if keep_identity else ())
    plain = _without_identity(original, prediction.image)
    height, width = prediction.geometry.image_height, prediction.geometry.image_width
    if (plain.get("Rows"), plain.get("Columns")) != (height, width):
        raise SegmentationError(f"{prediction.image}: the DICOM file is not of the size that was segmented.")
    buffer = BytesIO()
    try:
        segmentation = _segmentation(prediction, plain)
        segmentation.SpecificCharacterSet = "ISO_IR 192"
        if keep_identity:
            _add_identity(segmentation, original)
        segmentation.save_as(buffer, enforce_file_format=True)
    except (AttributeError, TypeError, ValueError):
        sentence = "no DICOM segmentation can be made with what the DICOM file says of itself."
        raise SegmentationError(f"{prediction.image}: {sentence}") from None
    return buffer.getvalue()


def _read(source: bytes | Path | None, name: str, *, wanted: tuple[str, ...]) -> Dataset:
    """UIDs, geometry and what else is wanted, and no other element."""
    data = source if isinstance(source, bytes) else source.read_bytes() if source else b""
    if not imaging.is_dicom(data[:132]):
        raise SegmentationError(f"{name}: a DICOM segmentation can only be written for a DICOM file.")
    from pydicom import dcmread

    keywords: list[Any] = [*_UIDS, _FRAME, *_GEOMETRY, *wanted]
    try:
        with quiet():
            dataset = dcmread(BytesIO(data), force=True, specific_tags=keywords, stop_before_pixels=True)
            for keyword in (*_GEOMETRY, *wanted):  # values are parsed on first use: let the damaged ones fail here
                dataset.get(keyword)
    except DECODING_ERRORS:
        raise SegmentationError(f"{name}: the DICOM file is damaged or ends early.") from None
    return dataset


def _without_identity(original: Dataset, name: str) -> Dataset:
    """UIDs and geometry of the X-ray; every field about the patient and the study is there and empty."""
    from pydicom.dataset import Dataset
    from pydicom.uid import RE_VALID_UID

    from sgmsnet.dicom_header import number, spacing_of

    plain = Dataset()
    for keyword in (*_UIDS, _FRAME):
        uid = _text(original, keyword)
        if re.fullmatch(RE_VALID_UID, uid) and len(uid) <= 64:
            setattr(plain, keyword, uid)
        elif keyword in _UIDS:
            raise SegmentationError(
                f"{name}: a DICOM segmentation refers to its X-ray, and this file has no valid {_UIDS[keyword]}."
            )
    if plain.SOPClassUID not in _CLASSES:
        raise SegmentationError(f"{name}: DICOM segmentations are written for single projection X-rays alone.")
    plain.Rows, plain.Columns = int(number(original, "Rows") or 0), int(number(original, "Columns") or 0)
    if spacing := spacing_of(original, "PixelSpacing"):
        plain.PixelSpacing = [float(value) for value in spacing]
    for keyword in _IDENTITY:
        setattr(plain, keyword, "" if keyword in ("PatientID", "PatientSex") else None)
    return plain


def _text(dataset: Dataset, keyword: str) -> str:
    """An element as it stands in the file: pydicom would repeat what it finds odd about it in a warning and a log."""
    element = dataset.get_item(keyword)
    value = b"" if element is None or element.value is None else element.value
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def _segmentation(prediction: Prediction, plain: Dataset) -> Any:
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import generate_uid

    masks = np.stack([prediction.masks[name] for name in prediction.classes], axis=-1)
    return Segmentation(
        source_images=[plain],
        pixel_array=masks[None].astype(np.uint8),  # (1, H, W, K)
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(prediction, number) for number in range(1, len(prediction.classes) + 1)],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="SGMSNet",
        manufacturer_model_name=f"SGMSNet {prediction.engine.model}"[:64],
        software_versions=sgmsnet.__version__,
        device_serial_number=prediction.engine.model_sha256,
        content_label="SGMSNET",
        content_description="For research only, not for diagnosis",
        series_description="SGMSNet segmentation, for research only",
        omit_empty_frames=False,  # a class that was looked for and not found is an empty mask, not an absent one
    )


def _segment(prediction: Prediction, number: int) -> Any:
    """The description of one class; number counts from 1."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    name = prediction.classes[number - 1]
    category, kind = _codes(name)
    algorithm = AlgorithmIdentificationSequence(
        name="SGMSNet",
        family=codes.DCM.ArtificialIntelligence,
        version=sgmsnet.__version__,
        parameters={
            "model": prediction.engine.model,
            "sha256": prediction.engine.model_sha256,
            "threshold": f"{prediction.thresholds[name]:g}",
        },
    )
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*overlay.colour_of(name, number - 1)),
    )


def _codes(name: str) -> tuple[Any, Any]:
    """(category, type) of a class in the words of SNOMED and DICOM; for a class that they do not know, in our own.

    A code has 16 letters at most, so a longer name, or one with other letters, has a hash for a code.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if name == LUNGS:
        return codes.SCT.AnatomicalStructure, codes.SCT.Lung
    if name == INFECTION:
        return codes.SCT.MorphologicallyAbnormalStructure, codes.DCM.Opacity
    short = name if len(name) <= 16 and name.isascii() else hashlib.sha256(name.encode()).hexdigest()[:16]
    return Code("class", "99SGMSNET", "Class of the model"), Code(short, "99SGMSNET", name[:64])


def _add_identity(segmentation: Any, original: Dataset) -> None:
    from pydicom.config import disable_value_validation

    with disable_value_validation(), quiet():  # odd values are copied, and not repeated in a log
        for keyword in _IDENTITY:
            value = original.get(keyword)
            if value not in (None, ""):
                setattr(segmentation, keyword, str(value))
