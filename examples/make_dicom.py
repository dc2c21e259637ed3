"""Write covid_adult_1.dcm from covid_adult_1.jpg: the same pixels as a secondary capture, for trying DICOM.

python examples/make_dicom.py

It names no patient, and states no date and no pixel spacing, because none is known. Running it again writes
the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

FOLDER = Path(__file__).parent
SOURCE, TARGET = FOLDER / "covid_adult_1.jpg", FOLDER / "covid_adult_1.dcm"
ATTRIBUTION = (
    "Winther et al., COVID-19 Image Repository, Hannover Medical School, doi:10.6084/m9.figshare.12275009, "
    "image f8335316, CC BY 3.0. Made smaller to 1024 pixels, JPEG quality 92, then written as DICOM."
)
# fmt: off
UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber", "PatientOrientation",
    "Laterality",
)
# fmt: on


def uid(what: str) -> str:
    """A UID that is the same on every run."""
    return generate_uid(entropy_srcs=["SGMSNet", TARGET.name, what])


def dataset(pixels: np.ndarray) -> Dataset:
    """A secondary capture of uint8 pixels (H, W); what the standard demands and nobody knows is empty."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID = SecondaryCaptureImageStorage
    result.SOPInstanceUID = uid("instance")
    result.StudyInstanceUID, result.SeriesInstanceUID = uid("study"), uid("series")
    for keyword in UNKNOWN:
        setattr(result, keyword, None)
    result.Modality, result.ConversionType, result.BodyPartExamined = "OT", "WSD", "CHEST"
    result.ImageComments = ATTRIBUTION
    result.LossyImageCompression, result.LossyImageCompressionMethod = "01", "ISO_10918_1"
    result.Rows, result.Columns = pixels.shape
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    result.PixelData = pixels.tobytes()
    return result


if __name__ == "__main__":
    with Image.open(SOURCE) as image:
        dataset(np.asarray(image)).save_as(TARGET, enforce_file_format=True)
