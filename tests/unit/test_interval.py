"""The interval of the infected share: counts that can be done by hand, and calibration that covers what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from sgmsnet.interval import MISSED, Cuts, ShareCuts, share_interval
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, draw_xray

CUTS = ShareCuts(both=Cuts(2.0, -2.0), side=Cuts(3.0, -3.0))


def test_ends_are_the_shares_above_the_two_cuts_and_what_may_be_missed() -> None:
    infection = np.array([[5.0, 2.5, 1.0, -1.0], [-2.5, -5.0, 9.0, 9.0]], np.float32)
    lungs = np.ones((2, 4), np.bool_)
    lungs[1, 2:] = False  # 9.0 lies outside
    found = share_interval(infection, lungs, image_left=None, cuts=CUTS)
    assert found["both"] == (pytest.approx(2 / 6), pytest.approx(4 / 6 + MISSED))
    assert (found["left"], found["right"]) == (None, None)


def test_the_image_s_left_is_the_patient_s_right_with_cuts_of_one_lung() -> None:
    infection = np.array([[4.0, -4.0, -2.5, -4.0]], np.float32)
    image_left = np.array([[True, True, False, False]])
    found = share_interval(infection, np.ones((1, 4), np.bool_), image_left=image_left, cuts=CUTS)
    assert found["right"] == (0.5, pytest.approx(0.5 + MISSED))
    assert found["left"] == (0.0, pytest.approx(0.5 + MISSED))


def test_no_lung_has_no_interval_and_no_end_is_above_one() -> None:
    infection = np.full((2, 2), 9.0, np.float32)
    empty = share_interval(infection, np.zeros((2, 2), np.bool_), image_left=None, cuts=CUTS)
    assert empty == {"left": None, "right": None, "both": None}
    assert share_interval(infection, np.ones((2, 2), np.bool_), image_left=None, cuts=CUTS)["both"] == (1.0, 1.0)


@pytest.mark.parametrize("ends", [(1.0, 2.0), (float("nan"), 0.0), (float("inf"), 0.0)])
def test_cuts_that_are_not_in_order_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="strict"):
        Cuts(*ends)


def test_cuts_come_back_from_a_header() -> None:
    assert ShareCuts.from_dict(CUTS.to_dict()) == CUTS
    with pytest.raises(KeyError):
        ShareCuts.from_dict({"both": {"strict": 1.0, "lax": 0.0}})


def test_a_prediction_has_it_for_each_lung_and_in_its_record() -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={"infection": 2.0}, share_cuts=CUTS)
    image = draw_xray(448, 300, sick=((0.2, 0.4, 0.35, 0.6),))  # in the image's left lung
    prediction = pipeline.predict(image)
    interval, share = prediction.share_interval, prediction.measurements.infected_share
    assert interval["right"] is not None
    assert interval["left"] == (0.0, MISSED)
    assert interval["right"][0] <= share.right <= interval["right"][1]  # type: ignore[operator]
    assert prediction.record()["infected_share_interval"]["right"] == list(interval["right"])


def test_where_no_pixel_of_the_image_is_lung_there_is_none_although_the_grid_has_some() -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={"lungs": 0.9}, temperature={}, share_cuts=CUTS)
    dots = np.zeros((16, 16), np.uint8)
    dots[8, 8] = 90  # its middle passes on the grid, and not its mean
    prediction = pipeline.predict(dots)
    shares = prediction.measurements.infected_share
    assert (prediction.on_the_grid("lungs") > prediction.cut("lungs")).any()
    assert shares.both is None
    for side, interval in prediction.share_interval.items():
        assert (interval is None) == (getattr(shares, side) is None), side


def test_it_does_not_move_with_the_threshold_of_infection() -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, share_cuts=CUTS)
    prediction = pipeline.predict(draw_xray(sick=((0.2, 0.4, 0.35, 0.6),)))
    assert prediction.with_thresholds({"infection": 0.9}).share_interval == prediction.share_interval


@pytest.mark.parametrize("size", [(224, 224), (500, 300), (97, 211)])
def test_sides_on_the_grid_are_those_of_the_full_image(size: tuple[int, int]) -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, share_cuts=CUTS)
    prediction = pipeline.predict(draw_xray(*size, sick=((0.6, 0.2, 0.85, 0.8),)))  # the image's right lung
    right, left = prediction.share_interval["right"], prediction.share_interval["left"]
    assert right is not None
    assert left is not None
    assert right[1] < MISSED + 0.01
    assert left[0] > 0.7


def test_without_cuts_or_without_both_classes_there_is_none() -> None:
    nothing = {"left": None, "right": None, "both": None}
    prediction = Pipeline(FakeEngine(), thresholds={}, temperature={}).predict(draw_xray())
    assert prediction.share_interval == nothing
    assert prediction.record()["infected_share_interval"] == nothing
