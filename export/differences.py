"""Differences between two sets of outputs, measured by polygraphy's comparators; says nothing of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Absolute differences of one output over all images; FP32's largest number stands for NaN and infinity."""

    max: float
    mean: float
    quantile_99: float
    """Of the batch of images where it is largest."""


def differences(
    found: Sequence[Mapping[str, np.ndarray]], expected: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Difference]:
    """Compare outputs by name, batch by batch; names are those of `found`. Raises ValueError for other shapes."""
    names = tuple(found[0])
    for one, other in zip(found, expected, strict=True):
        for name in names:
            if one[name].shape != other[name].shape:
                raise ValueError(f"{name} has the shape {one[name].shape} and should have {other[name].shape}")
    runs = RunResults(
        [
            ("engine", [IterationResult({name: part[name] for name in names}) for part in found]),
            ("reference", [IterationResult({name: part[name] for name in names}) for part in expected]),
        ]
    )
    compare = SimpleCompareFunc(check_error_stat="quantile", infinities_compare_equal=True, error_quantile=0.99)
    # It would print a table for every output of every batch.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        (pairs,) = Comparator.compare_accuracy(runs, compare_func=compare)
    (iterations,) = pairs.values()
    sizes = [len(part[names[0]]) for part in found]
    return {name: _over_all([one[name] for one in iterations], sizes) for name in names}


def not_finite(found: Sequence[Mapping[str, np.ndarray]]) -> int:
    """How many values are infinite or NaN, over all outputs."""
    return sum(int((~np.isfinite(value)).sum()) for part in found for value in part.values())


def _over_all(results: Sequence[object], sizes: Sequence[int]) -> Difference:
    def column(name: str) -> np.ndarray:
        values = np.array([getattr(result, name) for result in results], np.float64)
        return np.nan_to_num(values, nan=_LARGEST, posinf=_LARGEST, neginf=_LARGEST)

    return Difference(
        max=float(column("max_absdiff").max()),
        mean=float(np.average(column("mean_absdiff"), weights=sizes)),
        quantile_99=float(column("quantile_absdiff").max()),
    )
