"""Calibration error against pixels that are put into their bins one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sgmsnet.training.calibration import BINS, CLAIMED, Reliability

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
PIXELS = SHAPES.flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)), npst.arrays(bool, shape)
    )
)


def error_slowly(probability: np.ndarray, truth: np.ndarray) -> float:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, t in zip(probability.ravel().tolist(), truth.ravel().tolist(), strict=True):
        inside = next(i for i in range(BINS) if p * BINS <= i + 1)
        bins.setdefault(inside, []).append((p, t))
    gaps = [len(held) * abs(np.mean([t for _, t in held]) - np.mean([p for p, _ in held])) for held in bins.values()]
    return float(sum(gaps) / probability.size)


@settings(deadline=None)
@given(PIXELS)
def test_error_is_the_mean_gap_of_the_bins(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    assert Reliability.of(*pixels).error == pytest.approx(error_slowly(*pixels), abs=1e-9)


def test_images_added_are_all_pixels_at_once() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((3, 8, 9)).astype(np.float32)
    truth = rng.random((3, 8, 9)) < probability**2
    joined = Reliability.join([Reliability.of(p, t) for p, t in zip(probability, truth, strict=True)])
    whole = Reliability.of(probability, truth)
    np.testing.assert_array_equal(joined.pixels, whole.pixels)
    np.testing.assert_array_equal(joined.positives, whole.positives)
    np.testing.assert_allclose(joined.probability, whole.probability)
    assert joined.error == pytest.approx(error_slowly(probability, truth))


def test_honest_probabilities_have_no_error_and_boasting_ones_do() -> None:
    rng = np.random.default_rng(1)
    p = rng.random((400, 500))
    truth = rng.random(p.shape) < p
    assert Reliability.of(p, truth).error < 0.01
    assert Reliability.of((p > 0.5).astype(np.float32), truth).error == pytest.approx(0.25, abs=0.01)
    predicted, true = Reliability.of(p, truth).curve()
    np.testing.assert_allclose(predicted, true, atol=0.02)


def test_the_curve_leaves_out_bins_without_pixels() -> None:
    predicted, true = Reliability.of(np.array([[0.0, 1.0, 1.0]]), np.array([[False, True, False]])).curve()
    np.testing.assert_allclose(predicted, [0, 1])
    np.testing.assert_allclose(true, [0, 0.5])


@settings(deadline=None)
@given(PIXELS)
def test_the_error_of_claimed_pixels_is_that_of_those_pixels_alone(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    probability, truth = pixels
    claimed = probability > CLAIMED
    got = Reliability.of(probability, truth).error_claimed
    if claimed.any():
        assert got == pytest.approx(error_slowly(probability[claimed], truth[claimed]), abs=1e-9)
    else:
        assert got is None


def test_background_dilutes_the_error_over_all_pixels_alone() -> None:
    boasting, wrong = np.full((10, 10), 0.9), np.zeros((10, 10), bool)
    alone = Reliability.of(boasting, wrong)
    diluted = alone + Reliability.of(np.zeros((90, 100)), np.zeros((90, 100), bool))
    assert alone.error == alone.error_claimed == pytest.approx(0.9)
    assert diluted.error == pytest.approx(0.9 * 100 / 9100)
    assert diluted.error_claimed == pytest.approx(0.9)
