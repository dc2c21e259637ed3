"""How far the probabilities of pixels can be believed. Fits nothing: for the temperature see sweep.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

BINS = 15
CLAIMED = 0.01
"""Probability above which a pixel counts as claimed; most of an image's pixels are background, far below it."""


@dataclass(frozen=True)
class Reliability:
    """Pixels by predicted probability in 15 bins of equal width, each closed above; the first holds 0 too.

    Counted image by image and added with `+`, so every pixel weighs the same, and several processes give what one
    pass gives. pixels, positives: int64 (BINS + 1,); probability: the sum of the bin's probabilities, float64
    (BINS + 1,). The first bin is counted in two parts, up to CLAIMED and above.
    """

    pixels: np.ndarray
    positives: np.ndarray
    probability: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray) -> Reliability:
        """One image: calibrated probability float (H, W) in [0, 1], truth bool (H, W)."""
        p = probability.astype(np.float64).ravel()
        bins = np.where(p <= CLAIMED, 0, np.clip(np.ceil(p * BINS), 1, BINS)).astype(np.int64)
        return cls(
            np.bincount(bins, minlength=BINS + 1),
            np.bincount(bins[truth.ravel()], minlength=BINS + 1),
            np.bincount(bins, weights=p, minlength=BINS + 1),
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
        pixels, positives, probability = self._whole_bins
        return float(np.abs(positives - probability).sum() / pixels.sum())

    @property
    def error_claimed(self) -> float | None:
        """The same over pixels with a probability above CLAIMED, which background does not dilute; None without any.

        Chosen by the probability alone: taking the truth's pixels too would make honest probabilities look too low.
        """
        pixels = self.pixels[1:].sum()
        return float(np.abs(self.positives - self.probability)[1:].sum() / pixels) if pixels else None

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean probability and part that is true, float64 (n,), of the n bins that hold pixels."""
        pixels, positives, probability = self._whole_bins
        held = pixels > 0
        return probability[held] / pixels[held], positives[held] / pixels[held]

    @property
    def _whole_bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """pixels, positives, probability, each (BINS,)."""
        one, two, three = (
            np.append(part[0] + part[1], part[2:]) for part in (self.pixels, self.positives, self.probability)
        )
        return one, two, three
