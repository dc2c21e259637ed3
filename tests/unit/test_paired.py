"""Paired tests: against SciPy's permutation test and a bootstrap written out, and the rules at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sgmsnet.training.paired import PairedTest, holm, paired_test


def test_a_clear_difference_is_told_and_its_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    other = rng.uniform(0.5, 0.9, 80)
    one = other + rng.normal(0.03, 0.04, 80)
    found = paired_test([str(i) for i in range(80)], one, other)
    assert found.difference == pytest.approx(float(np.mean(one - other)))
    expected = stats.bootstrap((one - other,), np.mean, method="percentile", n_resamples=4000, random_state=2)
    assert found.interval is not None
    assert found.interval == pytest.approx(tuple(expected.confidence_interval), abs=0.002)
    assert found.p_value == pytest.approx(float(stats.wilcoxon(one, other).pvalue))
    assert found.verdict(0.01) == "better"
    assert paired_test([str(i) for i in range(80)], other, one).verdict(0.01) == "worse"


def test_a_verdict_takes_the_interval_and_the_adjusted_p_and_tells_of_seeds_that_disagree() -> None:
    def verdict(low: float, high: float, p: float, seeds: tuple[float, ...] = ()) -> str:
        middle = (low + high) / 2
        test = PairedTest(images=9, groups=9, difference=middle, interval=(low, high), p_value=p / 12)
        return test.verdict(p, seeds)

    assert verdict(0.01, 0.03, 0.04) == "better"
    assert verdict(0.01, 0.03, 0.05) == "no difference shown", "one of twelve tests is this lucky by chance"
    assert verdict(-0.01, 0.03, 0.001) == "no difference shown"
    assert verdict(-0.03, -0.01, 0.001, (-0.03, -0.01)) == "worse"
    assert verdict(0.01, 0.03, 0.04, (0.05, -0.01)) == "better; seeds disagree in sign"
    assert verdict(-0.01, 0.03, 0.4, (0.03, -0.01)) == "no difference shown; seeds disagree in sign"


def test_copies_of_a_patient_s_image_add_no_certainty() -> None:
    rng = np.random.default_rng(3)
    difference = rng.normal(0.02, 0.05, 20)
    once = paired_test([str(i) for i in range(20)], difference, np.zeros(20))
    copied = paired_test([str(i) for i in range(20) for _ in range(10)], np.repeat(difference, 10), np.zeros(200))
    assert copied.interval == pytest.approx(once.interval)
    assert copied.p_value == pytest.approx(once.p_value)
    assert (copied.images, copied.groups) == (200, 20)


def test_no_difference_at_all_has_a_p_of_one() -> None:
    found = paired_test(["a", "b", "c"], np.full(3, 0.5), np.full(3, 0.5))
    assert (found.difference, found.p_value, found.verdict(1.0)) == (0.0, 1.0, "no difference shown")


def test_one_patient_has_no_interval() -> None:
    found = paired_test(["a", "a"], np.array([0.4, 0.6]), np.array([0.1, 0.2]))
    assert found.interval is None
    assert found.verdict(0.001) == "no difference shown"


def test_holm_is_the_example_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
