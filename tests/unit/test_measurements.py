"""Areas, lung sides and infected share, against counts made pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgmsnet.measurements import InfectedShare, find_divider, measure


def ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def measured(lungs: np.ndarray, infection: np.ndarray) -> InfectedShare:
    divider = find_divider(lungs, height=lungs.shape[0], width=lungs.shape[1])
    return measure({"lungs": lungs, "infection": infection}, divider=divider, spacing_mm=None).infected_share


@settings(max_examples=60, deadline=None)
@given(
    rows=st.tuples(st.floats(80, 140), st.floats(80, 140)),
    tall=st.tuples(st.floats(40, 75), st.floats(40, 75)),
    spot=st.tuples(st.integers(0, 223), st.integers(0, 223), st.integers(1, 60)),
)
def test_infected_share_equals_a_count_by_lung(
    rows: tuple[float, float], tall: tuple[float, float], spot: tuple[int, int, int]
) -> None:
    image_left = ellipse((224, 224), (rows[0], 60), (tall[0], 35))
    image_right = ellipse((224, 224), (rows[1], 165), (tall[1], 40))
    infection = ellipse((224, 224), spot[:2], (spot[2], spot[2]))

    share = measured(image_left | image_right, infection)

    def counted(lung: np.ndarray) -> float:
        inside = [bool(infection[r, c]) for r, c in zip(*np.nonzero(lung), strict=True)]
        return sum(inside) / len(inside)

    assert share.right == pytest.approx(counted(image_left))  # the patient's right is on the image's left
    assert share.left == pytest.approx(counted(image_right))
    assert share.both == pytest.approx(counted(image_left | image_right))


@settings(max_examples=40, deadline=None)
@given(tilt=st.floats(-0.5, 0.5), height=st.integers(100, 900), width=st.integers(100, 900))
def test_tilted_lungs_are_told_apart_at_any_size(tilt: float, height: int, width: int) -> None:
    rows, columns = np.mgrid[:224, :224] - 112.0
    across, down = columns + tilt * rows, rows - tilt * columns
    image_left = ((across + 55) / 35) ** 2 + (down / 70) ** 2 <= 1
    image_right = ((across - 55) / 35) ** 2 + (down / 70) ** 2 <= 1

    divider = find_divider(image_left | image_right, height=height, width=width)

    assert divider is not None
    assert divider.shape == (height,)
    of_row = np.minimum(np.arange(height) * 224 // height, 223)
    of_column = np.minimum(np.arange(width) * 224 // width, 223)
    on_left = np.arange(width) < divider[:, None]
    large_left, large_right = image_left[np.ix_(of_row, of_column)], image_right[np.ix_(of_row, of_column)]
    assert np.count_nonzero(large_left & ~on_left) <= 0.01 * np.count_nonzero(large_left)
    assert np.count_nonzero(large_right & on_left) <= 0.01 * np.count_nonzero(large_right)


def test_a_lung_that_reaches_below_the_other_is_not_cut() -> None:
    lungs = np.zeros((100, 100), bool)
    lungs[20:60, 10:40] = lungs[20:90, 60:90] = True
    lungs[62:90, 30:60] = True  # the foot of the lung on the image's right lies below the other one
    divider = find_divider(lungs, height=100, width=100)
    assert divider is not None
    assert (divider[20:60] == 49.5).all()
    assert (divider[62:90] < 30).all()


def test_one_lung_merged_lungs_and_an_empty_mask_have_no_sides() -> None:
    one = ellipse((224, 224), (112, 60), (70, 35))
    two = one | ellipse((224, 224), (112, 165), (70, 35))
    merged = two.copy()
    merged[110:114, 60:165] = True
    for lungs, both in ((one, 1.0), (merged, two.sum() / merged.sum()), (np.zeros_like(one), None)):
        assert find_divider(lungs, height=224, width=224) is None
        assert measured(lungs, two) == InfectedShare(None, None, both)


def test_a_speck_is_not_a_second_lung() -> None:
    lung = ellipse((224, 224), (112, 60), (70, 35))
    speck = ellipse((224, 224), (112, 165), (10, 10))
    assert find_divider(lung | speck, height=224, width=224) is None


def test_components_above_each_other_have_no_sides() -> None:
    upper = ellipse((224, 224), (50, 90), (30, 30))
    lower = ellipse((224, 224), (160, 130), (30, 30))
    assert find_divider(upper | lower, height=224, width=224) is None


def test_areas_in_mm2_follow_from_the_spacing() -> None:
    lungs = np.ones((20, 30), bool)
    infection = np.zeros((20, 30), bool)
    infection[:2, :5] = True
    masks = {"lungs": lungs, "infection": infection}
    result = measure(masks, divider=None, spacing_mm=(0.5, 0.2))
    assert result.areas_px == {"lungs": 600, "infection": 10}
    assert result.areas_mm2 == pytest.approx({"lungs": 60.0, "infection": 1.0})
    assert measure(masks, divider=None, spacing_mm=None).areas_mm2 is None


def test_infection_outside_the_lungs_is_counted_apart() -> None:
    lungs, infection = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    lungs[:, :5] = True
    infection[:2, :] = True
    result = measure({"lungs": lungs, "infection": infection}, divider=None, spacing_mm=None)
    assert result.infection_outside_lungs_px == 10
    assert result.infected_share == InfectedShare(None, None, 0.2)


@pytest.mark.parametrize("name", ["lungs", "infection"])
def test_a_model_of_one_class_leaves_the_share_open(name: str) -> None:
    result = measure({name: np.ones((4, 4), bool)}, divider=None, spacing_mm=None)
    assert result.areas_px == {name: 16}
    assert result.infected_share == InfectedShare(None, None, None)
    assert result.infection_outside_lungs_px is None
