"""HD95 and NSD against MONAI and against measuring every pair of outline pixels, on masks of any shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from sgmsnet.training.surface import surface_distance

PAIRS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(npst.arrays(bool, shape), npst.arrays(bool, shape))
)
SPACINGS = st.sampled_from([None, (1.0, 1.0), (0.5, 0.5), (0.7, 1.9), (3.0, 0.2)])


def outline_slowly(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of the mask with a neighbour by an edge that is outside it or outside the image."""
    padded = np.pad(mask, 1)
    return [
        (r, c)
        for r, c in zip(*np.nonzero(mask), strict=True)
        if not (padded[r, c + 1] and padded[r + 2, c + 1] and padded[r + 1, c] and padded[r + 1, c + 2])
    ]


def nearest_slowly(one: np.ndarray, other: np.ndarray, step: tuple[float, float]) -> list[float]:
    targets = outline_slowly(other)
    return [min(math.hypot((r - y) * step[0], (c - x) * step[1]) for y, x in targets) for r, c in outline_slowly(one)]


@settings(deadline=None, max_examples=80)
@given(PAIRS, SPACINGS)
def test_distances_are_those_between_all_pairs_of_outline_pixels(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float] | None
) -> None:
    predicted, truth = pair
    assume(predicted.any() and truth.any())
    step = spacing or (1.0, 1.0)
    there, back = nearest_slowly(predicted, truth, step), nearest_slowly(truth, predicted, step)
    got = surface_distance(predicted, truth, spacing_mm=spacing)
    assert got.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert got.nsd == pytest.approx(sum(d <= 2 for d in there + back) / len(there + back))
    assert got.unit == ("px" if spacing is None else "mm")


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns of its own call
@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.7, 1.9)])
def test_distances_are_those_of_monai(spacing: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:60, 0:50]
    for _ in range(12):
        (y, x), (h, w), shift = rng.uniform(15, 40, 2), rng.uniform(5, 30, 2), rng.integers(-9, 9, 2)
        truth = ((rows - y) / h) ** 2 + ((columns - x) / w) ** 2 < 1
        predicted = np.roll(truth, shift, (0, 1)) ^ (rng.random(truth.shape) < 0.01)
        planes = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth)]  # (1, 1, H, W)
        options = {"include_background": True, "spacing": spacing}
        got = surface_distance(predicted, truth, spacing_mm=spacing)
        assert got.hd95 == pytest.approx(compute_hausdorff_distance(*planes, percentile=95, **options).item(), rel=1e-5)
        assert got.nsd == pytest.approx(compute_surface_dice(*planes, [2.0], **options).item(), rel=1e-5)


@pytest.mark.parametrize("spacing", [None, (0.5, 2.0)])
def test_empty_masks_follow_the_rule_stated(spacing: tuple[float, float] | None) -> None:
    empty, one = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    one[5, 5] = True
    diagonal = 50 if spacing is None else math.hypot(15, 80)
    both = surface_distance(empty, empty, spacing_mm=spacing)
    assert (both.hd95, both.nsd) == (0, 1)
    for pair in ((empty, one), (one, empty)):
        got = surface_distance(*pair, spacing_mm=spacing)
        assert (got.hd95, got.nsd) == (pytest.approx(diagonal), 0)


def test_equal_masks_that_fill_the_image_are_no_distance_apart() -> None:
    full = np.ones((9, 7), bool)
    got = surface_distance(full, full)
    assert (got.hd95, got.nsd) == (0, 1)
