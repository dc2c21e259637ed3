"""DICOM files of one patient, written with known values, and what becomes of them. No assertions."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import generate_uid

from sgmsnet.imaging import Radiograph, UnreadableImageError, load

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NAME, NUMBER, BORN = "Mustermann^Erika", "PID-4711-0815", "19640812"
RAMP = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)


def made(pixels: np.ndarray = RAMP, *, bits: int = 12, **elements: Any) -> Dataset:
    """A CR image of one patient, whose name must never come back."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, NUMBER, BORN
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = min(bits, dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset, syntax: str = EXPLICIT, *, meta: bool = True) -> bytes:
    buffer = BytesIO()
    if not meta:
        dataset.save_as(buffer, implicit_vr=syntax == IMPLICIT, little_endian=True)
        return buffer.getvalue()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels: np.ndarray, syntax: str, **elements: Any) -> bytes:
    dataset = made(pixels, **elements)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.compress(syntax, generate_instance_uid=False)
    return written(dataset, syntax)


def outcome(data: bytes) -> Radiograph | str:
    """What became of a file that may be damaged: a Radiograph, or the sentence it was refused with."""
    try:
        return load(data, name="chest.dcm")
    except UnreadableImageError as error:
        return str(error)
