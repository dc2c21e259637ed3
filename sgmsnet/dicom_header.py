"""What a DICOM header says about a projection X-ray beside its grey scale: spacing and sides. Reads no pixels.

Package-private: call sgmsnet.imaging.load. Nothing of the file's own text leaves this module.
"""

from __future__ import annotations

import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sgmsnet.radiograph import SpacingAt

Spacing = tuple[float, float]
_MOST_MAGNIFIED = 2.0  # an object halfway between tube and detector


def spacing(dataset: Dataset) -> tuple[Spacing | None, SpacingAt | None]:
    """((row, column) in mm, where it holds): at the patient if the file tells how to get there, else at the detector.

    Where it holds is None for a PixelSpacing alone, of which nobody knows (DICOM PS3.3 10.7.1.3).
    """
    pixels, detector = spacing_of(dataset, "PixelSpacing"), spacing_of(dataset, "ImagerPixelSpacing")
    if pixels and str(dataset.get("PixelSpacingCalibrationType") or "").strip().upper() in ("GEOMETRY", "FIDUCIAL"):
        return pixels, "patient"
    if detector is None:
        return pixels, None
    if pixels and not all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(pixels, detector, strict=True)):
        return pixels, "patient"
    magnification = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if magnification and 1 < magnification <= _MOST_MAGNIFIED:
        return (detector[0] / magnification, detector[1] / magnification), "patient"
    return detector, "detector"


def spacing_of(dataset: Dataset, keyword: str) -> Spacing | None:
    """(row, column) in mm as one element says; None where it does not say both, or what cannot be true."""
    row, column = number(dataset, keyword, 0), number(dataset, keyword, 1)
    if row and column and 0.001 <= row <= 100 and 0.001 <= column <= 100:
        return row, column
    return None


def usual_sides(dataset: Dataset) -> bool:
    """False where a row of the image does not run towards the patient's left (DICOM PS3.3 C.7.6.1.1.1)."""
    value = dataset.get("PatientOrientation")
    row = str(value[0]).strip().upper() if isinstance(value, MultiValue) and len(value) == 2 else ""
    return not row or row.startswith("L")


def number(dataset: Dataset, keyword: str, position: int = 0) -> float | None:
    """One value of an element as a finite number; None where it is absent, empty or no number."""
    value = dataset.get(keyword)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        value = [value]
    try:
        number = float(value[position])
    except (LookupError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
