"""Masks at the image's own size, thresholds, and the result record."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sgmsnet.interval import Cuts, ShareCuts
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import RECORD_KEYS, Failure, Familiarity, Prediction, failure_record, logit_cut
from sgmsnet.web import payload
from tests.fakes import LUNG, SICK, FakeEngine, draw_xray, info_with
from tests.needs import ROOT
from tests.unit.dicom_files import made, written

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))

ADDED_LATER = {"spacing_at", "header_note"}
"""Always written, but not required: records of older releases fit the schema still."""


def predicted(pixels: np.ndarray, **changes: object) -> Prediction:
    pipeline = Pipeline(FakeEngine(info_with(**changes)), thresholds={}, temperature={})
    return pipeline.predict(pixels, name="chest.png")


def check(record: dict[str, object]) -> None:
    """Validate what a reader of the JSON gets."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(json.loads(json.dumps(record, allow_nan=False)))


@settings(max_examples=100, deadline=None)
@given(
    logits=hnp.arrays(np.float32, 20, elements=st.floats(-30, 30, width=32)),
    threshold=st.floats(0.01, 0.99),
    temperature=st.floats(0.2, 5),
)
def test_comparing_logits_says_the_same_as_comparing_probabilities(
    logits: np.ndarray, threshold: float, temperature: float
) -> None:
    cut = logit_cut(threshold, temperature)
    for x in logits.tolist():
        probability = 1 / (1 + math.exp(-x / temperature))
        if abs(probability - threshold) > 1e-9:
            assert (x > cut) == (probability > threshold)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(40, 500), width=st.integers(40, 500))
def test_mask_has_the_size_of_the_input_and_its_content_for_any_aspect(height: int, width: int) -> None:
    pixels = draw_xray(height, width)
    mask = predicted(pixels).masks["lungs"]
    assert mask.dtype == np.bool_
    assert mask.shape == (height, width)
    drawn = pixels > 0
    common = np.count_nonzero(mask & drawn) / np.count_nonzero(mask | drawn)
    assert common > 0.85  # two resamplings move a border by a pixel or two


def test_masks_of_an_image_of_the_models_size_are_exact() -> None:
    pixels = draw_xray(sick=((0.2, 0.4, 0.4, 0.6),))
    masks = predicted(pixels).masks
    np.testing.assert_array_equal(masks["lungs"], pixels >= LUNG)
    np.testing.assert_array_equal(masks["infection"], pixels == SICK)


def test_probability_is_the_sigmoid_of_the_tempered_logits() -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={"infection": 2.0})
    prediction = pipeline.predict(np.full((224, 224), 190, np.uint8))
    probability = prediction.probability("infection")
    assert probability.dtype == np.float32
    assert probability[100, 100] == pytest.approx(1 / (1 + math.exp(-(190 - 170) / 10 / 2.0)))
    with pytest.raises(ValueError, match="no class 'heart'"):
        prediction.probability("heart")


def test_masks_agree_with_probabilities_at_the_thresholds() -> None:
    prediction = predicted(draw_xray(300, 260, sick=((0.2, 0.4, 0.4, 0.6),)))
    for threshold in (0.1, 0.5, 0.93):
        changed = prediction.with_thresholds({"infection": threshold})
        expected = changed.probability("infection") > threshold
        assert np.count_nonzero(expected != changed.masks["infection"]) <= 2  # float32 at the very edge
        np.testing.assert_array_equal(changed.masks["lungs"], prediction.masks["lungs"])


def test_higher_thresholds_never_enlarge_a_mask() -> None:
    prediction = predicted(draw_xray(300, 260))
    low, high = (prediction.with_thresholds({"lungs": t}).masks["lungs"] for t in (0.2, 0.8))
    assert not (high & ~low).any()


@pytest.mark.parametrize("thresholds", [{"heart": 0.5}, {"lungs": 0.0}, {"lungs": 1.0}, {"lungs": math.nan}])
def test_thresholds_that_cannot_be_are_refused(thresholds: dict[str, float]) -> None:
    prediction = predicted(draw_xray())
    with pytest.raises(ValueError, match=r"heart|between 0 and 1"):
        prediction.with_thresholds(thresholds)


def test_share_of_an_infected_right_lung() -> None:
    # The box of the lung on the image's left, cut in half: the patient's right lung.
    prediction = predicted(draw_xray(sick=((0.15, 0.2, 0.42, 0.8),)))
    share = prediction.measurements.infected_share
    assert prediction.measurements.sides_known
    assert (share.right, share.left) == (1.0, 0.0)
    assert share.both == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("orientation", "known"), [(["L", "F"], True), (["R", "F"], False), (["A", "F"], False)])
def test_sides_are_unknown_where_the_file_is_mirrored_and_all_else_is_as_before(
    orientation: list[str], known: bool
) -> None:
    cuts = ShareCuts(both=Cuts(1.0, -1.0), side=Cuts(1.0, -1.0))
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, share_cuts=cuts)
    pixels = draw_xray(sick=((0.2, 0.4, 0.4, 0.6),))
    usual = pipeline.predict(written(made(pixels)), name="chest.dcm").record()
    prediction = pipeline.predict(written(made(pixels, PatientOrientation=orientation)), name="chest.dcm")
    record = prediction.record()
    check(record)
    assert (usual["sides_known"], record["sides_known"]) == (True, known)
    for shares in ("infected_share", "infected_share_interval"):
        expected = usual[shares] if known else {"left": None, "right": None, "both": usual[shares]["both"]}
        assert record[shares] == expected
    assert usual["infected_share"]["both"] > 0
    assert (record["areas_px"], record["error"]) == (usual["areas_px"], None)
    assert (payload.from_prediction(prediction)["divider"] is None) is not known  # the page's badges hang on it


def test_record_fits_the_schema_and_says_what_was_measured() -> None:
    prediction = predicted(draw_xray(300, 200, sick=((0.2, 0.4, 0.4, 0.6),)))
    record = prediction.record()
    check(record)
    assert tuple(record) == RECORD_KEYS
    assert SCHEMA["required"] == [key for key in RECORD_KEYS if key not in ADDED_LATER]
    of_predict_alone = {"path", "segmentation_error"}
    assert [key for key in SCHEMA["properties"] if key not in of_predict_alone] == list(RECORD_KEYS)
    assert (record["image"], record["width"], record["height"]) == ("chest.png", 200, 300)
    assert record["areas_px"]["lungs"] == np.count_nonzero(prediction.masks["lungs"])
    assert record["areas_mm2"] is None
    assert record["familiar"] is None
    assert record["timings_ms"]["encode"] is None
    assert all(record["timings_ms"][stage] >= 0 for stage in ("decode", "prepare", "run", "postprocess"))


def test_record_with_spacing_and_familiarity_fits_the_schema() -> None:
    pipeline = Pipeline(
        FakeEngine(), thresholds={}, temperature={}, familiarity=lambda embedding, lungs: Familiarity(0.25, False)
    )
    prediction = pipeline.predict(draw_xray())
    source = prediction.radiograph
    spaced = replace(source, spacing_mm=(0.5, 0.5), spacing_at="detector")
    record = Prediction(**{**_fields(prediction), "radiograph": spaced}).record()
    check(record)
    assert (record["spacing_mm"], record["spacing_at"]) == ([0.5, 0.5], "detector")
    assert record["areas_mm2"]["lungs"] == pytest.approx(record["areas_px"]["lungs"] / 4)
    assert (record["familiar"], record["familiarity"]) == (False, 0.25)


@pytest.mark.parametrize("classes", [("lungs",), ("infection",)])
def test_record_of_a_model_of_one_class_fits_the_schema(classes: tuple[str, ...]) -> None:
    record = predicted(draw_xray(), classes=classes).record()
    check(record)
    assert record["infected_share"] == {"left": None, "right": None, "both": None}
    assert record["sides_known"] is (classes == ("lungs",))
    assert record["infection_outside_lungs_px"] is None


def test_failure_record_fits_the_schema() -> None:
    record = failure_record("a.png", "a.png: the file is empty")
    check(record)
    assert Failure("a.png", "a.png: the file is empty").record() == record
    assert tuple(record) == RECORD_KEYS
    assert {key for key, value in record.items() if value is not None} == {"image", "error"}


def test_records_of_older_releases_fit_the_schema() -> None:
    for record in (predicted(draw_xray()).record(), failure_record("a.png", "a.png: the file is empty")):
        check({key: value for key, value in record.items() if key not in ADDED_LATER})


def test_schema_refuses_a_record_that_is_half_a_failure() -> None:
    record = predicted(draw_xray()).record()
    for spoiled in ({**record, "error": "failed"}, {**record, "width": None}, {**record, "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check(spoiled)


def _fields(prediction: Prediction) -> dict[str, object]:
    return {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
