"""How far the probabilities of pixels can be believed. Fits nothing: for the temperature see sweep.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Pixels by predicted probability in 15 bins of equal width, each closed above; the first holds 0 too.

    Counted image by image and added with `+`, so every pixel weighs the same, and several processes give what one
    pass gives. pixels, positives: int64 (BINS,); probability: the sum of the bin's probabilities, float64 (BINS,).
    """

    pixels: np.ndarray
    positives: np.ndarray
    probability: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray) -> Reliability:
        """One image: calibrated probability float (H, W) in [0, 1], truth bool (H, W)."""
        p = probability.astype(np.float64).ravel()
        bins = np.clip(np.ceil(p * BINS) - 1, 0, BINS - 1).astype(np.int64)
        return cls(
            np.bincount(bins, minlength=BINS),
            np.bincount(bins[truth.ravel()], minlength=BINS),
            np.bincount(bins, weights=p, minlength=BINS),
        )

    @classmethod
    def join(cls, parts: list[Reliability]) -> Reliability:
        """The sum of several, at least one."""
        return reduce(add, parts)

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.pixels + other.pixels,
            self.positives + other.positives,
            self.probability + other.probability,
        )

    @property
    def error(self) -> float:
        """Expected calibration error: mean over pixels of |part that is true - mean probability| of their bin.

        Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
        """
        return float(np.abs(self.positives - self.probability).sum() / self.pixels.sum())

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean probability and part that is true, float64 (n,), of the n bins that hold pixels."""
        held = self.pixels > 0
        return self.probability[held] / self.pixels[held], self.positives[held] / self.pixels[held]
