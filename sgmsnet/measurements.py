"""What is measured on a prediction's masks: areas, lung sides, infected share. No drawing, no thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

LUNGS = "lungs"
INFECTION = "infection"

SMALLEST_SECOND_LUNG = 0.10  # of the larger lung's area; below it the second component is a speck
SMALLEST_DISTANCE = 0.15  # of the image's width, between the two lungs' centres


@dataclass(frozen=True)
class InfectedShare:
    """Infected fraction of the patient's left lung, right lung and both, in [0, 1]; None where unknown."""

    left: float | None
    right: float | None
    both: float | None


@dataclass(frozen=True)
class Measurements:
    """Areas by class in pixels of the image's own size and in mm², and the infected share of the lungs.

    areas_mm2 is None for an image without pixel spacing; infection_outside_lungs_px is None for a model
    that does not have both classes. sides_known says whether left and right lung could be told apart.
    """

    areas_px: dict[str, int]
    areas_mm2: dict[str, float] | None
    infected_share: InfectedShare
    infection_outside_lungs_px: int | None
    sides_known: bool


def find_divider(lungs: np.ndarray, *, height: int, width: int) -> np.ndarray | None:
    """Where the left and the right half of an image part, one column for each of its rows.

    lungs is a bool (h, w) mask of the whole image at any resolution; the result is float64 (height,) in
    columns of the full image, so that the pixels with `column < divider[row]` lie on the image's left, which
    is the patient's right. None if the mask does not show two lungs beside each other.
    """
    pair = _two_lungs(lungs)
    if pair is None:
        return None
    rows, columns = lungs.shape
    edges = _edges_between(*pair)
    # Rows and columns are compared at pixel centres, hence the halves.
    row_centres = (np.arange(height) + 0.5) * (rows / height) - 0.5
    divider: np.ndarray = np.interp(row_centres, np.arange(rows), edges) * (width / columns) - 0.5
    return divider


def measure(
    masks: Mapping[str, np.ndarray],
    *,
    divider: np.ndarray | None,
    spacing_mm: tuple[float, float] | None,
) -> Measurements:
    """Measure bool (H, W) masks by class; divider (H,) as from find_divider, spacing_mm as (row, column).

    Infected share = |infection ∩ lung side| / |lung side|.
    """
    areas_px = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
    areas_mm2 = None
    if spacing_mm is not None:
        pixel_mm2 = spacing_mm[0] * spacing_mm[1]
        areas_mm2 = {name: area * pixel_mm2 for name, area in areas_px.items()}
    outside, share = None, InfectedShare(None, None, None)
    if LUNGS in masks and INFECTION in masks:
        infected_lungs = masks[LUNGS] & masks[INFECTION]
        outside = areas_px[INFECTION] - int(np.count_nonzero(infected_lungs))
        share = _infected_share(masks[LUNGS], infected_lungs, divider)
    return Measurements(
        areas_px=areas_px,
        areas_mm2=areas_mm2,
        infected_share=share,
        infection_outside_lungs_px=outside,
        sides_known=divider is not None,
    )


def _infected_share(lungs: np.ndarray, infected: np.ndarray, divider: np.ndarray | None) -> InfectedShare:
    """Shares from bool (H, W) masks of the lungs and of the infection inside them."""
    lungs_px, infected_px = int(np.count_nonzero(lungs)), int(np.count_nonzero(infected))
    both = _ratio(infected_px, lungs_px)
    if divider is None:
        return InfectedShare(None, None, both)
    image_left = np.arange(lungs.shape[1], dtype=np.float32) < divider.astype(np.float32)[:, None]
    right_lung_px = int(np.count_nonzero(lungs & image_left))
    right_infected_px = int(np.count_nonzero(infected & image_left))
    return InfectedShare(
        left=_ratio(infected_px - right_infected_px, lungs_px - right_lung_px),
        right=_ratio(right_infected_px, right_lung_px),
        both=both,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _two_lungs(lungs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The two lungs of a bool (h, w) mask, the image's left one first; None unless they lie side by side."""
    labels: Any
    labels, count = ndimage.label(lungs)
    if count < 2:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    largest, second = np.argsort(sizes, kind="stable")[::-1][:2]
    if sizes[second] < SMALLEST_SECOND_LUNG * sizes[largest]:
        return None
    a, b = labels == largest + 1, labels == second + 1
    (row_a, column_a), (row_b, column_b) = _centre(a), _centre(b)
    across, down = abs(column_a - column_b), abs(row_a - row_b)
    if across <= SMALLEST_DISTANCE * lungs.shape[1] or across <= down:
        return None
    return (a, b) if column_a < column_b else (b, a)


def _centre(lung: np.ndarray) -> tuple[float, float]:
    """Row and column of the centre of a bool (h, w) mask; from its margins, a third of SciPy's time."""
    by_row, by_column = lung.sum(axis=1), lung.sum(axis=0)
    area = by_row.sum()
    return float(by_row @ np.arange(len(by_row)) / area), float(by_column @ np.arange(len(by_column)) / area)


def _edges_between(image_left: np.ndarray, image_right: np.ndarray) -> np.ndarray:
    """Midway between two bool (h, w) lungs for each row, float64 (h,), counted in pixel edges from 0 to w."""
    rows, columns = image_left.shape
    has_left, has_right = image_left.any(axis=1), image_right.any(axis=1)
    end_of_left = columns - image_left[:, ::-1].argmax(axis=1)
    start_of_right = image_right.argmax(axis=1)
    shared = np.flatnonzero(has_left & has_right)
    if len(shared):
        edges = np.interp(np.arange(rows), shared, (end_of_left[shared] + start_of_right[shared]) / 2)
    else:
        centres = [_centre(lung)[1] + 0.5 for lung in (image_left, image_right)]
        edges = np.full(rows, sum(centres) / 2)
    # Where only one lung is there, a carried-over divider must not cut through it.
    edges = np.where(has_left & ~has_right, np.maximum(edges, end_of_left), edges)
    result: np.ndarray = np.where(has_right & ~has_left, np.minimum(edges, start_of_right), edges)
    return result
