"""Confidence intervals by drawing patients again: images of one patient are alike and must not count as independent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sgmsnet.training.metrics import WORST_SHARE

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
    member, count = _members(groups)
    if count < 2:
        return dict.fromkeys(ratios)
    columns = np.array([column for ratio in ratios.values() for column in ratio], np.float64)  # (2 R, N)
    sums = np.array([np.bincount(member, weights=column, minlength=count) for column in columns])  # (2 R, groups)
    totals = np.concatenate([times @ sums.T for times in _draws(count, resamples, seed)])  # (resamples, 2 R)
    return {name: _percentiles(totals[:, 2 * i], totals[:, 2 * i + 1]) for i, name in enumerate(ratios)}


def worst_interval(
    groups: Sequence[str], values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """95 % interval of metrics.worst of values (N,), the mean of the lowest twentieth, by the draws of intervals()."""
    member, count = _members(groups)
    if count < 2:
        return None
    order = np.argsort(values, kind="stable")
    ranked, owner = np.asarray(values, np.float64)[order], member[order]
    found, held = [], []
    for times in _draws(count, resamples, seed):
        drawn = times[:, owner]  # (n, N): how often each image, from the lowest
        before = np.cumsum(drawn, axis=1) - drawn
        most = np.ceil(WORST_SHARE * drawn.sum(axis=1))
        taken = np.clip(most[:, None] - before, 0, drawn)
        found.append(taken @ ranked)
        held.append(most)
    return _percentiles(np.concatenate(found), np.concatenate(held))


def _members(groups: Sequence[str]) -> tuple[np.ndarray, int]:
    """The group of each image as a number, (N,), and how many groups there are."""
    _, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return member, int(member.max(initial=-1)) + 1


def _draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn: int (n, count) at a time, n summing to resamples."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(CHUNK, resamples - start))


def _percentiles(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float] | None:
    known = denominators > 0
    if not known.any():
        return None
    low, high = np.quantile(numerators[known] / denominators[known], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
