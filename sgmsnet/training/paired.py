"""Is one network better than another on the same images? A paired bootstrap and a signed-rank test over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from sgmsnet.training.bootstrap import intervals

SIGNIFICANT = 0.05
"""Below it an adjusted p counts."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The difference of a metric, one minus other, over the same images."""

    images: int
    groups: int
    difference: float
    """Mean over images."""
    interval: tuple[float, float] | None
    """95 %, by drawing groups again; None with fewer than two groups."""
    p_value: float
    """Of Wilcoxon's signed-rank test on the groups' mean differences, two-sided; 1 where nothing differs."""

    def verdict(self, p_adjusted: float, by_seed: Sequence[float] = ()) -> str:
        """better, worse or no difference shown: the interval leaves out zero and p, adjusted, is below 0.05.

        The interval alone is that of one test and takes no notice of how many there are. by_seed: the difference with
        each seed, to say where they do not agree in sign.
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1] or p_adjusted >= SIGNIFICANT:
            text = "no difference shown"
        else:
            text = "better" if self.difference > 0 else "worse"
        return f"{text}; seeds disagree in sign" if by_seed and min(by_seed) < 0 < max(by_seed) else text


def paired_test(groups: Sequence[str], one: np.ndarray, other: np.ndarray) -> PairedTest:
    """Compare values (N,) of the same N images; groups: the patient of each.

    Images of one patient are alike, so patients are drawn again and ranked, not images. Sources: Efron and
    Tibshirani, 1993, chapter 16; Wilcoxon, 1945, with Pratt's treatment of zeros.
    """
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    by_group = np.bincount(member, weights=difference) / np.bincount(member)
    found = intervals(groups, {"difference": (difference, np.ones(len(difference)))})
    p_value = float(wilcoxon(by_group, zero_method="pratt").pvalue) if by_group.any() else 1.0
    return PairedTest(
        images=len(difference),
        groups=len(names),
        difference=float(difference.mean()),
        interval=found["difference"],
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for several tests at once.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(order) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return [float(p) for p in adjusted]
