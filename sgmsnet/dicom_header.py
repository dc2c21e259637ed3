"""What a DICOM header says about a projection X-ray beside its grey scale: spacing, sides and view. Reads no pixels.

Package-private: call sgmsnet.imaging.load. Nothing of the file's own text leaves this module.
"""

from __future__ import annotations

import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sgmsnet.radiograph import SpacingAt

Spacing = tuple[float, float]
_MOST_MAGNIFIED = 2.0  # an object halfway between tube and detector
_FRONTAL, _LATERAL = frozenset({"AP", "PA"}), frozenset({"LL", "RL", "LAT", "LATERAL"})
# Not abdomen, shoulder, neck or spine: what is filed under them can be a frontal picture with the lungs in it.
# fmt: off
_NOT_THE_CHEST = frozenset({
    "ANKLE", "ARM", "CALCANEUS", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP",
    "HUMERUS", "JAW", "KNEE", "LEG", "MANDIBLE", "PATELLA", "PELVIS", "SKULL", "THIGH", "THUMB", "TOE", "WRIST",
})
# fmt: on


def spacing(dataset: Dataset) -> tuple[Spacing | None, SpacingAt | None]:
    """((row, column) in mm, where it holds): at the patient if the file tells how to get there, else at the detector.

    Where it holds is None for a PixelSpacing alone, of which nobody knows (DICOM PS3.3 10.7.1.3).
    """
    pixels, detector = spacing_of(dataset, "PixelSpacing"), spacing_of(dataset, "ImagerPixelSpacing")
    if pixels and _word(dataset, "PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL"):
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
    """Whether rows of the image run towards the patient's left and columns to the feet, as far as the file says.

    Source: DICOM PS3.3 C.7.6.1.1.1.
    """
    row, _ = _orientation(dataset)
    return (not row or row.startswith("L")) and not turned(dataset)


def turned(dataset: Dataset) -> bool:
    """Whether the file says that columns of the image do not run to the feet."""
    _, column = _orientation(dataset)
    return bool(column) and not column.startswith("F")


def not_frontal(dataset: Dataset) -> str | None:
    """What a header says against a frontal chest X-ray, as what follows "says that"; None unless it is beyond doubt.

    Most headers say little about it, and some in words of their own: what is not in the lists counts for nothing.
    """
    part, view = _word(dataset, "BodyPartExamined"), _word(dataset, "ViewPosition")
    if part in _NOT_THE_CHEST:
        return f"it shows another part of the body: {part.lower()}"
    row, _ = _orientation(dataset)
    if view in _LATERAL or (row.startswith(("A", "P")) and view not in _FRONTAL):
        return "this is a lateral view"
    return None


def _orientation(dataset: Dataset) -> tuple[str, str]:
    """Where rows and columns of the image run to, such as L and F; both empty where the file does not say both."""
    value = dataset.get("PatientOrientation")
    if not isinstance(value, MultiValue) or len(value) != 2:
        return "", ""
    return str(value[0]).strip().upper(), str(value[1]).strip().upper()


def _word(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()


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
