"""Intervals over patients: against SciPy's bootstrap, drawing by hand, and coverage on data with a known mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from sgmsnet.training.bootstrap import intervals, worst_interval
from sgmsnet.training.metrics import worst


def test_images_without_a_common_patient_give_the_interval_of_scipy() -> None:
    values = np.random.default_rng(0).beta(5, 2, 120)
    [(low, high)] = [intervals([f"p{i}" for i in range(120)], {"mean": (values, np.ones(120))})["mean"] or (0, 0)]
    theirs = bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.003)
    assert high == pytest.approx(theirs.high, abs=0.003)


def test_pooled_ratios_are_those_of_patients_drawn_by_hand() -> None:
    rng = np.random.default_rng(1)
    groups = [f"p{i}" for i in rng.integers(0, 25, 90)]
    over, under = rng.random(90), rng.random(90) + 1
    names = sorted(set(groups))
    drawn = []
    for _ in range(4000):
        chosen = [i for name in rng.choice(names, len(names)) for i in np.flatnonzero(np.array(groups) == name)]
        drawn.append(over[chosen].sum() / under[chosen].sum())
    got = intervals(groups, {"ratio": (over, under)}, resamples=4000)["ratio"]
    np.testing.assert_allclose(got, np.quantile(drawn, [0.025, 0.975]), atol=0.006)


def test_images_of_one_patient_do_not_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(2)
    of_patient = rng.random(30)
    ten_each = np.repeat(of_patient, 10)
    groups = [f"p{i // 10}" for i in range(300)]
    together = intervals(groups, {"mean": (ten_each, np.ones(300))})["mean"]
    alone = intervals(groups[::10], {"mean": (of_patient, np.ones(30))})["mean"]
    np.testing.assert_allclose(together, alone)
    apart = intervals([str(i) for i in range(300)], {"mean": (ten_each, np.ones(300))})["mean"]
    assert together is not None
    assert apart is not None
    assert apart[1] - apart[0] < 0.5 * (together[1] - together[0])


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        values = rng.normal(0.7, 0.1, 60)
        low, high = intervals([str(i) for i in range(60)], {"m": (values, np.ones(60))}, resamples=300)["m"] or (0, 0)
        held += low <= 0.7 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_in_any_order_of_metrics() -> None:
    values, one = np.random.default_rng(4).random(20), np.ones(20)
    groups = [str(i) for i in range(20)]
    both = intervals(groups, {"a": (values, one), "b": (1 - values, one)})
    assert both["a"] == intervals(groups, {"a": (values, one)})["a"]
    assert both["b"] == intervals(groups, {"b": (1 - values, one)})["b"]


def test_one_patient_or_nothing_to_divide_by_has_no_interval() -> None:
    assert intervals(["p", "p"], {"a": (np.ones(2), np.ones(2))}) == {"a": None}
    assert intervals(["p", "q"], {"a": (np.zeros(2), np.zeros(2))}) == {"a": None}


def test_the_interval_of_the_worst_twentieth_is_that_of_patients_drawn_by_hand() -> None:
    rng = np.random.default_rng(5)
    groups = [f"p{i}" for i in rng.integers(0, 40, 150)]
    values = rng.beta(5, 2, 150)
    names = sorted(set(groups))
    of_name = {name: values[np.array(groups) == name] for name in names}
    drawn = [worst(np.concatenate([of_name[name] for name in rng.choice(names, len(names))])) for _ in range(4000)]
    got = worst_interval(groups, values, resamples=4000)
    np.testing.assert_allclose(got, np.quantile(drawn, [0.025, 0.975]), atol=0.01)
    assert got is not None
    assert got[0] <= worst(values) <= got[1]
    assert worst_interval(["p", "p"], np.ones(2)) is None
