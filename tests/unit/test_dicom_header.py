"""What a DICOM header says beside its grey scale: where the spacing holds, and the sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgmsnet.imaging import load
from tests.unit.dicom_files import RAMP, made, written

# ---- spacing ----

MAGNIFIED = "EstimatedRadiographicMagnificationFactor"
PIXELS, DETECTOR = {"PixelSpacing": [0.2, 0.1]}, {"ImagerPixelSpacing": [0.4, 0.3]}
SAME = {"PixelSpacing": [0.4, 0.3], **DETECTOR}
# elements, spacing in mm, where it holds: DICOM PS3.3 10.7.1.3 and C.8.11.7 (detector = patient x magnification)
SPACINGS: list[tuple[dict[str, Any], tuple[float, float] | None, str | None]] = [
    ({}, None, None),
    (DETECTOR, (0.4, 0.3), "detector"),
    ({**DETECTOR, MAGNIFIED: 1.25}, (0.32, 0.24), "patient"),
    ({**DETECTOR, MAGNIFIED: 2}, (0.2, 0.15), "patient"),
    *(({**DETECTOR, MAGNIFIED: factor}, (0.4, 0.3), "detector") for factor in (0, 0.8, 1, 2.5, -1.25, "", None)),
    ({**PIXELS, **DETECTOR}, (0.2, 0.1), "patient"),
    ({**PIXELS, **DETECTOR, MAGNIFIED: 1.25}, (0.2, 0.1), "patient"),
    (SAME, (0.4, 0.3), "detector"),
    ({**SAME, "PixelSpacing": ["0.40001", "0.3"]}, (0.4, 0.3), "detector"),  # written with other digits
    ({**SAME, MAGNIFIED: 1.25}, (0.32, 0.24), "patient"),
    ({**SAME, "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.4, 0.3), "patient"),
    ({**SAME, "PixelSpacingCalibrationType": "NONE"}, (0.4, 0.3), "detector"),
    ({**PIXELS, "PixelSpacingCalibrationType": "GEOMETRY"}, (0.2, 0.1), "patient"),
    (PIXELS, (0.2, 0.1), None),
    ({**PIXELS, MAGNIFIED: 1.25}, (0.2, 0.1), None),
    ({"PixelSpacing": [0, 0], **DETECTOR}, (0.4, 0.3), "detector"),
    *(({"PixelSpacing": nonsense}, None, None) for nonsense in ([0, 0], [-1, 1], [1e9, 1e9])),
]


@pytest.mark.parametrize(("elements", "spacing", "where"), SPACINGS)
def test_spacing_is_brought_to_the_patient_where_the_file_tells_how_and_says_where_it_holds(
    elements: dict[str, Any], spacing: tuple[float, float] | None, where: str | None
) -> None:
    radiograph = load(written(made(**elements)))
    assert radiograph.spacing_mm == (spacing and pytest.approx(spacing))
    assert radiograph.spacing_at == where


# ---- sides ----


@pytest.mark.parametrize(
    ("orientation", "usual"),
    [
        (["L", "F"], True),
        (["LP", "FR"], True),
        (["R", "F"], False),
        (["A", "F"], False),
        (["P", "FL"], False),
        (["H", "L"], False),
        (["", ""], True),
        ("R", True),  # half an orientation is none
        ("", True),
        (None, True),
    ],
)
def test_sides_are_usual_unless_the_file_says_otherwise(orientation: list[str] | str | None, usual: bool) -> None:
    data = written(made(PatientOrientation=orientation))
    assert load(data).usual_sides is usual
    colours = np.repeat((RAMP % 256).astype(np.uint8)[..., None], 3, axis=2)
    assert load(written(made(colours, PatientOrientation=orientation))).usual_sides is usual
    assert load(written(made())).usual_sides
