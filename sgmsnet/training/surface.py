"""Distances between the outlines of two masks: HD95 and normalised surface Dice, by SciPy's distance transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

TOLERANCE = 2.0
"""Of NSD, in pixels, or in mm where the spacing is known."""


@dataclass(frozen=True)
class SurfaceDistance:
    """HD95 in `unit`, and NSD in [0, 1] at a tolerance of 2 `unit`."""

    hd95: float
    nsd: float
    unit: Literal["px", "mm"]


def surface_distance(
    predicted: np.ndarray, truth: np.ndarray, *, spacing_mm: tuple[float, float] | None = None
) -> SurfaceDistance:
    """Compare bool masks (H, W); spacing_mm as (row, column), without it distances are in pixels.

    An outline is a mask's pixels that touch its outside or the image's border by an edge. HD95: 95th percentile of the
    distances from one outline to the other, in the direction where it is larger. NSD: the part of both outlines within
    the tolerance of the other. Two empty masks: HD95 0, NSD 1. One empty mask: NSD 0, and for HD95 the image's
    diagonal, as no outline can be farther away. Sources: Nikolov et al., "Deep learning to achieve clinically
    applicable segmentation of head and neck anatomy", 2018; Seidlitz et al., 2022, for the version on pixels.
    """
    unit: Literal["px", "mm"] = "px" if spacing_mm is None else "mm"
    step = spacing_mm or (1.0, 1.0)
    if not predicted.any() or not truth.any():
        if predicted.any() == truth.any():
            return SurfaceDistance(0.0, 1.0, unit)
        return SurfaceDistance(math.hypot(truth.shape[0] * step[0], truth.shape[1] * step[1]), 0.0, unit)
    box = _bounding_box(predicted | truth)  # nothing outside changes a distance
    one, other = _outline(predicted[box]), _outline(truth[box])
    distances = [
        distance_transform_edt(~to, sampling=step)[at]  # from each pixel of `at` to the nearest of `to`
        for at, to in ((one, other), (other, one))
    ]
    return SurfaceDistance(
        hd95=max(float(np.percentile(d, 95)) for d in distances),
        nsd=float(np.mean(np.concatenate(distances) <= TOLERANCE)),
        unit=unit,
    )


def _outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask)


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
