"""Thresholds and temperature from one pass over labelled images: histograms of logits, in memory that stays constant.

Nothing here changes a model: what is found is passed to `checkpoint.save`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logit

from sgmsnet.training.metrics import EPSILON

BINS = 4096
LARGEST_LOGIT = 32.0
"""Logits beyond are counted in the outermost bins; no threshold of the grid at any temperature lies there."""
STEP = 2 * LARGEST_LOGIT / BINS
EDGES: np.ndarray = np.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, BINS + 1)
CENTRES: np.ndarray = EDGES[:-1] + STEP / 2
THRESHOLDS: np.ndarray = np.round(np.arange(0.05, 0.951, 0.05), 2)
TEMPERATURES = (0.1, 10.0)
"""Range of the fit: beyond it, logits are so wrong that no temperature mends them."""


@dataclass(frozen=True)
class LogitHistogram:
    """How often each logit occurs inside and outside the true mask, and Dice at each cut, summed over images.

    positive, negative: pixels, int64 (BINS,); bin i holds EDGES[i] < logit <= EDGES[i + 1]. positive_share,
    negative_share: the same as parts of each image's pixels, float64 (BINS,), in which a large image weighs no more
    than a small one. dice: sum over images of the Dice of `logit > EDGES[i]`, float64 (BINS + 1,). images: how many
    Dice were summed. Histograms are added with `+`, those of several processes too: the sum is that of one pass.
    """

    positive: np.ndarray
    negative: np.ndarray
    positive_share: np.ndarray
    negative_share: np.ndarray
    dice: np.ndarray
    images: int

    @classmethod
    def of(cls, logits: np.ndarray, truth: np.ndarray, *, outlined: bool = True) -> LogitHistogram:
        """One image: logits float32 (H, W), truth bool (H, W).

        outlined=False leaves the image out of Dice, as a chest that is healthy by definition; its pixels count.
        """
        scaled = np.ceil((logits.astype(np.float64) + LARGEST_LOGIT) / STEP) - 1
        bins = np.clip(scaled, 0, BINS - 1).astype(np.int64)
        positive = np.bincount(bins[truth], minlength=BINS)
        negative = np.bincount(bins[~truth], minlength=BINS)
        tp, fp = _above(positive), _above(negative)
        dice = (2 * tp + EPSILON) / (tp + fp + tp[0] + EPSILON)  # tp + fp + all that are true
        dice = dice if outlined else np.zeros(BINS + 1)
        return cls(positive, negative, positive / truth.size, negative / truth.size, dice, int(outlined))

    @classmethod
    def join(cls, parts: list[LogitHistogram]) -> LogitHistogram:
        """The sum of several, at least one."""
        return reduce(add, parts)

    def __add__(self, other: LogitHistogram) -> LogitHistogram:
        return LogitHistogram(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def negative_log_likelihood(self, temperature: float) -> float:
        """Mean over images of the mean of -log p(truth), natural logarithm, p = sigmoid(logit / temperature)."""
        x = CENTRES / temperature
        losses = self.positive_share @ np.logaddexp(0, -x) + self.negative_share @ np.logaddexp(0, x)
        return float(losses / (self.positive_share.sum() + self.negative_share.sum()))

    def fit_temperature(self) -> float | None:
        """The temperature with the least negative log likelihood; None unless there are pixels of both kinds.

        Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
        """
        if not (self.positive.any() and self.negative.any()):
            return None
        found = minimize_scalar(
            lambda log_t: self.negative_log_likelihood(float(np.exp(log_t))),
            bounds=np.log(TEMPERATURES),
            method="bounded",
            options={"xatol": 1e-5},
        )
        return float(np.exp(found.x))

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel precision and recall, float64 (BINS + 1,), of `logit > EDGES`; 1 where nothing is claimed or true."""
        tp, fp = _above(self.positive), _above(self.negative)
        return (tp + EPSILON) / (tp + fp + EPSILON), (tp + EPSILON) / (tp[0] + EPSILON)


@dataclass(frozen=True)
class Sweep:
    """Dice of one class at THRESHOLDS of the probability sigmoid(logit / temperature); both belong together."""

    temperature: float | None
    """None where it cannot be fitted; the thresholds are then for temperature 1."""
    nll_at_temperature_1: float
    nll: float
    """Mean negative log likelihood at the temperature found, over an image's pixels and then over images."""
    images: int
    dice_per_image: np.ndarray | None
    """float64 (len(THRESHOLDS),); None without outlined images, as is dice_pooled."""
    dice_pooled: np.ndarray | None

    @classmethod
    def of(cls, histogram: LogitHistogram) -> Sweep:
        """Read the Dice at the cut nearest to each threshold, at most half a bin (0.008 of a logit) away.

        Pooled Dice counts the pixels of images without an outline too, as false positives.
        """
        fitted = histogram.fit_temperature()
        temperature = fitted or 1.0
        at = np.rint((temperature * logit(THRESHOLDS) + LARGEST_LOGIT) / STEP).astype(int)
        tp, fp = _above(histogram.positive)[at], _above(histogram.negative)[at]
        pooled = (2 * tp + EPSILON) / (tp + fp + histogram.positive.sum() + EPSILON)
        return cls(
            temperature=fitted,
            nll_at_temperature_1=histogram.negative_log_likelihood(1),
            nll=histogram.negative_log_likelihood(temperature),
            images=histogram.images,
            dice_per_image=histogram.dice[at] / histogram.images if histogram.images else None,
            dice_pooled=pooled if histogram.images else None,
        )

    def record(self) -> dict[str, Any]:
        """JSON-ready; best_threshold is that of the best per-image Dice, None without outlined images."""
        rows, best = [], None
        if self.dice_per_image is not None and self.dice_pooled is not None:
            values = zip(THRESHOLDS, self.dice_per_image, self.dice_pooled, strict=True)
            rows = [{"threshold": float(t), "dice_per_image": float(a), "dice_pooled": float(b)} for t, a, b in values]
            best = float(THRESHOLDS[np.argmax(self.dice_per_image)])
        return {
            "temperature": self.temperature,
            "nll_at_temperature_1": self.nll_at_temperature_1,
            "nll": self.nll,
            "images": self.images,
            "best_threshold": best,
            "thresholds": rows,
        }


def _above(histogram: np.ndarray) -> np.ndarray:
    """Pixels above each edge: int (BINS,) -> (BINS + 1,)."""
    return np.append(np.cumsum(histogram[::-1])[::-1], 0)
