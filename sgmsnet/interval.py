"""How sure the infected share is: two stricter and laxer cuts, calibrated so that the truth lies between their shares.

The idea is split conformal prediction. Each calibration image has one cut at which the predicted share of its lungs
equals the true share. The interval of a new image runs from its share at the 97.5th percentile of these cuts to its
share at the 2.5th (both with the finite-sample correction), so that 95 % of images like those of the calibration have
their true share inside, whatever the distribution of errors. It says nothing of images unlike them. The high end counts
MISSED of the lung on top, since no cut brings back what the network is sure not to see; the cuts are fitted with it.

Source: Vovk et al., "Algorithmic Learning in a Random World", 2005; Angelopoulos and Bates, "A Gentle Introduction to
Conformal Prediction", 2021 (thresholds as nested sets). Fitting is in training/share.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Interval = tuple[float, float]
SHARES = ("left", "right", "both")
MISSED = 0.05
"""Of the lung. It keeps the interval honest where little was found, and costs no width on average (docs/results.md)."""


@dataclass(frozen=True)
class Cuts:
    """In logits: the low end counts pixels above `strict`, the high end those above `lax`."""

    strict: float
    lax: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.strict, self.lax]).all() and self.lax <= self.strict):
            raise ValueError(f"the cuts of the infected share must be finite, and strict above lax: {self}")


@dataclass(frozen=True)
class ShareCuts:
    """Cuts for both lungs together, and for one lung, whose share is less certain."""

    both: Cuts
    side: Cuts

    def to_dict(self) -> dict[str, dict[str, float]]:
        """A JSON-ready dictionary; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> ShareCuts:
        """Raises KeyError, TypeError or ValueError for what is not such a dictionary."""
        return cls(*(Cuts(float(values[part]["strict"]), float(values[part]["lax"])) for part in ("both", "side")))


def share_interval(
    infection: np.ndarray, lungs: np.ndarray, *, image_left: np.ndarray | None, cuts: ShareCuts
) -> dict[str, Interval | None]:
    """95 % interval of the infected share of the patient's left lung, right lung and both.

    infection float32 (h, w) logits, lungs bool (h, w), image_left bool (h, w): the patient's right side,
    None where the sides are unknown; all on one grid of any resolution. None where there is no lung.
    """
    chosen = infection[lungs]
    found: dict[str, Interval | None] = dict.fromkeys(SHARES)
    found["both"] = _interval(chosen, cuts.both)
    if image_left is not None:
        right = image_left[lungs]
        found["right"], found["left"] = _interval(chosen[right], cuts.side), _interval(chosen[~right], cuts.side)
    return found


def _interval(logits: np.ndarray, cuts: Cuts) -> Interval | None:
    if not logits.size:
        return None
    low, high = (int(np.count_nonzero(logits > cut)) / logits.size for cut in (cuts.strict, cuts.lax))
    return low, min(1.0, high + MISSED)
