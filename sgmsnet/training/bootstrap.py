"""Confidence intervals by drawing patients again: images of one patient are alike and must not count as independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
SEED = 20251123
CHUNK = 100
"""Resamples drawn at once; bounds memory on large sets."""

Ratio = tuple[np.ndarray, np.ndarray]
"""Numerator and denominator of each image, (N,). A mean has 1 for denominator; pooled Dice 2 TP and 2 TP + FP + FN."""


def intervals(
    groups: Sequence[str], ratios: Mapping[str, Ratio], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of sum(numerator) / sum(denominator), by percentiles over resamples of whole groups.

    groups: the patient of each image, N names. As many groups as there are, are drawn with replacement; the same draws
    serve all ratios. None with fewer than two groups, or where a denominator is always 0.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Field and Welsh, 2007.
    """
    _, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    count = int(member.max(initial=-1)) + 1
    if count < 2:
        return dict.fromkeys(ratios)
    columns = np.array([column for ratio in ratios.values() for column in ratio], np.float64)  # (2 R, N)
    sums = np.array([np.bincount(member, weights=column, minlength=count) for column in columns])  # (2 R, groups)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.multinomial(count, np.full(count, 1 / count), size=min(CHUNK, resamples - start)) @ sums.T
        for start in range(0, resamples, CHUNK)
    ]
    totals = np.concatenate(drawn)  # (resamples, 2 R)
    return {name: _percentiles(totals[:, 2 * i], totals[:, 2 * i + 1]) for i, name in enumerate(ratios)}


def _percentiles(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float] | None:
    known = denominators > 0
    if not known.any():
        return None
    low, high = np.quantile(numerators[known] / denominators[known], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
