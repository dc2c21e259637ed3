"""Fit the cuts for the interval of the infected share, and measure how often the truth lies inside; runs no network.

The method is told in sgmsnet/interval.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgmsnet.interval import MISSED, Cuts, ShareCuts
from sgmsnet.measurements import INFECTION, LUNGS
from sgmsnet.prediction import Prediction

LEVEL = 0.95
FOLDS = 5
KNOTS: np.ndarray = np.linspace(-15, 15, 301)
"""Cuts, in logits, at which an image's share is kept; ends of intervals are found to 0.1."""


@dataclass(frozen=True, eq=False)
class Lung:
    """One lung, or both of one image: the true share, and the predicted one at each of KNOTS, float64 (301,)."""

    source: str
    group: str
    side: str
    """left, right or both."""
    truth: float
    curve: np.ndarray

    def strict(self) -> float:
        """The smallest knot whose share is not above the truth."""
        return float(KNOTS[np.argmax(self.curve <= self.truth)]) if (self.curve <= self.truth).any() else KNOTS[-1]

    def lax(self) -> float:
        """The largest knot whose share, with MISSED on top, is not below the truth."""
        enough = np.flatnonzero(self.curve + MISSED >= self.truth)
        return float(KNOTS[enough[-1]]) if len(enough) else float(KNOTS[0])

    def ends(self, cuts: Cuts) -> tuple[float, float]:
        """The interval at cuts that lie on the knots."""
        low, high = (float(self.curve[round((cut - KNOTS[0]) * 10)]) for cut in (cuts.strict, cuts.lax))
        return low, min(1.0, high + MISSED)


def lungs_of(
    prediction: Prediction,
    infection: np.ndarray,
    lungs: np.ndarray | None,
    *,
    source: str,
    group: str,
) -> list[Lung]:
    """What one image tells: true infection bool (H, W), true lungs bool (H, W) or None for the predicted ones."""
    logits, found = prediction.on_the_grid(INFECTION), prediction.on_the_grid(LUNGS) > prediction.cut(LUNGS)
    lungs = prediction.masks[LUNGS] if lungs is None else lungs
    parts = [("both", np.ones_like(lungs), np.ones_like(found))]
    image_left = prediction.image_left(found.shape)
    if prediction.divider is not None and image_left is not None:
        right = np.arange(lungs.shape[1]) < prediction.divider[:, None]
        parts += [("right", right, image_left), ("left", ~right, ~image_left)]
    result = []
    for side, true_side, found_side in parts:
        whole, chosen = lungs & true_side, np.sort(logits[found & found_side])
        if whole.any() and chosen.size:
            curve = 1 - np.searchsorted(chosen, KNOTS, side="right") / chosen.size
            truth = float(np.count_nonzero(infection & whole) / np.count_nonzero(whole))
            result.append(Lung(source, group, side, truth, curve))
    return result


def fit(lungs: Sequence[Lung]) -> ShareCuts:
    """Cuts between whose shares the truth of LEVEL of such lungs lies; of fewer than 39 lungs, the widest there are."""
    both = [lung for lung in lungs if lung.side == "both"]
    single = [lung for lung in lungs if lung.side != "both"]
    return ShareCuts(_cuts(both), _cuts(single or both))


def _cuts(lungs: Sequence[Lung]) -> Cuts:
    # For each end the rank of conformal prediction: a new lung is as likely to fall at any place among these.
    rank = math.ceil((len(lungs) + 1) * (1 + LEVEL) / 2)
    if rank > len(lungs):  # too few to say anything of 95 %: the interval is all that the curves hold
        return Cuts(float(KNOTS[-1]), float(KNOTS[0]))
    strict = float(np.sort([lung.strict() for lung in lungs])[rank - 1])
    lax = -float(np.sort([-lung.lax() for lung in lungs])[rank - 1])
    return Cuts(round(max(strict, lax), 1), round(min(strict, lax), 1))


@dataclass(frozen=True)
class Coverage:
    """How often the truth lay inside, and how wide the intervals were, on lungs that the cuts were not fitted to."""

    lungs: int
    inside: float
    width: float


def coverage(lungs: Sequence[Lung]) -> dict[tuple[str, str], Coverage]:
    """By source and by "both" or "one lung", each patient judged by cuts from the other four fifths of patients."""
    groups = sorted({lung.group for lung in lungs})
    fold = dict(zip(groups, np.random.default_rng(0).permutation(len(groups)) % FOLDS, strict=True))
    rows: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for k in range(FOLDS):
        cuts = fit([lung for lung in lungs if fold[lung.group] != k])
        for lung in lungs:
            if fold[lung.group] == k:
                low, high = lung.ends(cuts.both if lung.side == "both" else cuts.side)
                key = (lung.source, "both lungs" if lung.side == "both" else "one lung")
                rows.setdefault(key, []).append((low <= lung.truth <= high, high - low))
    return {
        key: Coverage(len(found), *(float(value) for value in np.mean(np.array(found, np.float64), axis=0)))
        for key, found in sorted(rows.items())
    }
