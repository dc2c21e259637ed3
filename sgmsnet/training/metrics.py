"""Segmentation metrics from counts of pixels, in both families that are published for QaTa-COV19; numpy only.

Per-image: the metric of each image, then the mean over images. Pooled: counts summed over the set first. The two must
never be mixed: on the same masks they differ by several points. The rule for empty masks: a metric whose denominator
has no pixels is 1, so an empty mask that is predicted empty scores 1 in all of them, and in Dice and IoU any other
prediction for it scores 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-5
"""Added to numerator and denominator of every ratio: what makes 0 / 0 a 1."""
WORST_SHARE = 0.05


@dataclass(frozen=True)
class Counts:
    """Pixels per image: true positives, false positives, false negatives, true negatives, each int64 (N,)."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray) -> Counts:
        """Count one pair of boolean masks (H, W), or N pairs (N, H, W)."""
        axes = (-2, -1)
        return cls(
            *(
                np.atleast_1d(np.count_nonzero(pixels, axis=axes)).astype(np.int64)
                for pixels in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
            )
        )

    @classmethod
    def join(cls, parts: list[Counts]) -> Counts:
        """Concatenate over images."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("tp", "fp", "fn", "tn")))

    def pooled(self) -> Counts:
        """Sum over all images into one."""
        return Counts(*(np.atleast_1d(np.sum(getattr(self, n))) for n in ("tp", "fp", "fn", "tn")))

    @property
    def dice(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN), float64 (N,)."""
        return (2 * self.tp + EPSILON) / (2 * self.tp + self.fp + self.fn + EPSILON)

    @property
    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN), float64 (N,)."""
        return (self.tp + EPSILON) / (self.tp + self.fp + self.fn + EPSILON)

    @property
    def sensitivity(self) -> np.ndarray:
        """TP / (TP + FN), also called recall, float64 (N,)."""
        return (self.tp + EPSILON) / (self.tp + self.fn + EPSILON)

    @property
    def specificity(self) -> np.ndarray:
        """TN / (TN + FP), float64 (N,)."""
        return (self.tn + EPSILON) / (self.tn + self.fp + EPSILON)

    @property
    def precision(self) -> np.ndarray:
        """TP / (TP + FP), float64 (N,)."""
        return (self.tp + EPSILON) / (self.tp + self.fp + EPSILON)


def worst(values: np.ndarray) -> float:
    """Mean of the lowest twentieth of values (N,), rounded up to whole images."""
    return float(np.sort(values)[: math.ceil(WORST_SHARE * len(values))].mean())


def summarise(counts: Counts) -> dict[str, float | int]:
    """Both families of Dice and IoU over a set of images, the worst twentieth, and pooled rates, as fractions of 1."""
    pooled = counts.pooled()
    return {
        "images": len(counts.tp),
        "dice_per_image": float(counts.dice.mean()),
        "iou_per_image": float(counts.iou.mean()),
        "dice_pooled": float(pooled.dice[0]),
        "iou_pooled": float(pooled.iou[0]),
        "dice_worst_5_percent": worst(counts.dice),
        "sensitivity": float(pooled.sensitivity[0]),
        "specificity": float(pooled.specificity[0]),
        "precision": float(pooled.precision[0]),
    }
