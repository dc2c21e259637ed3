"""What a DICOM header says beside its grey scale: where the spacing holds, the sides, the view."""

from __future__ import annotations

from typing import Any

import jsonschema
import numpy as np
import pytest

from sgmsnet.html_report import render
from sgmsnet.imaging import load
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Familiarity, withhold_unfamiliar
from tests.fakes import FakeEngine, draw_xray
from tests.needs import data_dir
from tests.unit.dicom_files import NAME, RAMP, made, written
from tests.unit.predicting import SCHEMA

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
        (["L", "H"], False),
        (["LA", "HR"], False),
        (["F", "R"], False),
        (["R", "H"], False),
        (["L", ""], True),
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


# ---- view and part of the body ----

LATERAL, HAND = "this is a lateral view", "it shows another part of the body: hand"
AGAINST: list[tuple[dict[str, Any], str]] = [
    *(({"ViewPosition": view}, LATERAL) for view in ("LL", "RL", "LATERAL", "lat ")),
    *(({"PatientOrientation": rows}, LATERAL) for rows in (["A", "F"], ["P", "F"], ["AR", "F"], ["p", "f"])),
    ({"BodyPartExamined": "CHEST", "ViewPosition": "LL"}, LATERAL),
    ({"BodyPartExamined": "HAND"}, HAND),
    ({"BodyPartExamined": " hand", "ViewPosition": "PA"}, HAND),
    ({"BodyPartExamined": "SKULL", "ViewPosition": "LL"}, "it shows another part of the body: skull"),
]
# What is usual, odd, empty or contradicts itself counts for nothing.
SILENT: list[dict[str, Any]] = [
    {},
    *({"ViewPosition": view} for view in ("AP", "PA", "", None, "LLD", "RLD", "LLO", "LPO", "ANTERIOR", ["LL", "PA"])),
    *({"BodyPartExamined": part} for part in ("CHEST", "THORAX", "PORT CHEST", "TÓRAX", "RIBS", "LUNG", "", None)),
    *({"BodyPartExamined": part} for part in ("ABDOMEN", "SHOULDER", "TSPINE", "HANDLE", "X", NAME, ["HAND", "CHEST"])),
    *(
        {"PatientOrientation": rows}
        for rows in (["L", "F"], ["LA", "F"], ["R", "F"], ["", ""], ["", "F"], "A", "", None)
    ),
    {"PatientOrientation": ["A", "F"], "ViewPosition": "PA"},
]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(("elements", "says"), [*AGAINST, *((elements, None) for elements in SILENT)])
def test_only_a_header_beyond_doubt_speaks_against_a_frontal_chest(elements: dict[str, Any], says: str | None) -> None:
    radiograph = load(written(made(**elements)))
    assert (radiograph.frontal, radiograph.header_says) == (says is None, says)
    assert radiograph.header_note == (says and f"The file's header says that {says}.")


def test_the_header_of_a_real_file_speaks_against_a_chest_and_those_of_chests_do_not() -> None:
    files = {path.name: load(path).header_says for path in (data_dir() / "dicom").glob("*.dcm")}
    assert files.pop("nonchest_cr_mono1_10bit_jpeg2000lossless.dcm") == "it shows another part of the body: extremity"
    assert set(files.values()) == {None}


@pytest.mark.parametrize("rows", [["L", "H"], ["R", "H"], ["F", "R"], ["H", "L"]])
def test_a_turned_image_stays_as_it_is_and_the_record_says_so(rows: list[str]) -> None:
    judge = {"familiarity": lambda embedding, lungs: Familiarity(0.9, True)}
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, **judge)
    pixels = draw_xray()[::-1].copy()
    plain = pipeline.predict(written(made(pixels)), name="chest.dcm")
    turned = pipeline.predict(written(made(pixels, PatientOrientation=rows)), name="chest.dcm")
    assert np.array_equal(turned.radiograph.pixels, plain.radiograph.pixels)
    record = turned.record()
    jsonschema.validate(record, SCHEMA)
    assert (plain.record()["sides_known"], record["sides_known"]) == (True, False)
    assert record["header_note"] == "The file's header says that the image is turned or upside-down."
    assert (record["familiar"], record["areas_px"]) == (True, plain.record()["areas_px"])
    assert str(record["header_note"]).replace("'", "&#x27;") in render(turned)


@pytest.mark.parametrize("pixels_familiar", [True, False, None])
def test_a_header_that_speaks_against_it_makes_the_image_unfamiliar(pixels_familiar: bool | None) -> None:
    judged = None if pixels_familiar is None else Familiarity(0.9 if pixels_familiar else 0.1, pixels_familiar)
    judge = None if judged is None else (lambda embedding, lungs: judged)
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, familiarity=judge)
    plain = pipeline.predict(written(made(draw_xray())), name="chest.dcm")
    lateral = pipeline.predict(written(made(draw_xray(), ViewPosition="LL")), name="chest.dcm")
    assert plain.familiarity == judged
    record = lateral.record()
    jsonschema.validate(record, SCHEMA)
    assert (record["familiar"], record["familiarity"]) == (False, judged and judged.score)
    assert (plain.record()["header_note"], record["header_note"]) == (None, f"The file's header says that {LATERAL}.")
    withheld = withhold_unfamiliar(lateral).record()
    jsonschema.validate(withheld, SCHEMA)
    assert (withheld["familiar"], withheld["areas_px"], withheld["header_note"]) == (False, None, None)
    sentence = f"this does not look like a frontal chest X-ray (the file's header says that {LATERAL})"
    assert withheld["error"] == f"chest.dcm: {sentence}, so its masks were withheld."
