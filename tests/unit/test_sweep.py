"""Thresholds and temperature from histograms of logits, against masks that are cut one by one and a direct fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from sgmsnet.training.metrics import Counts, summarise
from sgmsnet.training.sweep import THRESHOLDS, LogitHistogram, Sweep

TRUE_TEMPERATURE = 2.5


def images(n: int = 6, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 logits (n, 40, 30) that are too sure by TRUE_TEMPERATURE, and truths drawn from the honest ones."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(-1, 2, (n, 40, 30))
    return (honest * TRUE_TEMPERATURE).astype(np.float32), rng.random(honest.shape) < expit(honest)


def histogram(logits: np.ndarray, truth: np.ndarray) -> LogitHistogram:
    return LogitHistogram.join([LogitHistogram.of(x, t) for x, t in zip(logits, truth, strict=True)])


def test_temperature_is_that_of_a_fit_on_every_pixel() -> None:
    logits, truth = images()
    signed = np.where(truth, -1, 1) * logits.astype(np.float64)
    direct = minimize_scalar(lambda t: np.logaddexp(0, signed / t).mean(), bounds=(0.1, 10), method="bounded")
    sweep = Sweep.of(histogram(logits, truth))
    assert sweep.temperature == pytest.approx(direct.x, rel=2e-3)
    assert sweep.temperature == pytest.approx(TRUE_TEMPERATURE, rel=0.1), "what the logits were made with"
    assert sweep.nll == pytest.approx(direct.fun, rel=1e-3)
    assert sweep.nll_at_temperature_1 == pytest.approx(np.logaddexp(0, signed).mean(), rel=1e-3)


def test_a_large_image_weighs_no_more_in_the_temperature_than_a_small_one() -> None:
    logits, truth = images(2)
    enlarged = [array.repeat(9, axis=0).repeat(9, axis=1) for array in (logits[0], truth[0])]
    mixed = LogitHistogram.of(*enlarged) + LogitHistogram.of(logits[1], truth[1])
    assert mixed.fit_temperature() == pytest.approx(histogram(logits, truth).fit_temperature(), rel=1e-6)


def test_dice_at_each_threshold_is_that_of_the_masks_cut_there() -> None:
    logits, truth = images()
    truth[0] = False
    logits[1] = -40
    sweep = Sweep.of(histogram(logits, truth))
    assert sweep.temperature is not None
    assert sweep.dice_per_image is not None
    assert sweep.dice_pooled is not None
    for i, threshold in enumerate(THRESHOLDS):
        cut = summarise(Counts.of(expit(logits / sweep.temperature) > threshold, truth))
        assert sweep.dice_per_image[i] == pytest.approx(cut["dice_per_image"], abs=2e-3)
        assert sweep.dice_pooled[i] == pytest.approx(cut["dice_pooled"], abs=2e-3)
    record = sweep.record()
    assert record["images"] == len(logits)
    assert [row["threshold"] for row in record["thresholds"]] == pytest.approx(np.linspace(0.05, 0.95, 19))
    best = max(record["thresholds"], key=lambda row: row["dice_per_image"])
    assert record["best_threshold"] == best["threshold"]


def test_a_logit_on_an_edge_does_not_pass_it() -> None:
    sweep = Sweep.of(LogitHistogram.of(np.zeros((1, 2), np.float32), np.array([[True, False]])))
    assert sweep.dice_pooled is not None
    # Whatever the temperature: probability 0.5 passes 0.45, not 0.5.
    assert sweep.dice_pooled[8] == pytest.approx(2 / 3, abs=1e-4)
    assert sweep.dice_pooled[9] == pytest.approx(0, abs=1e-4)


def test_halves_added_are_the_whole() -> None:
    logits, truth = images()
    whole, halves = histogram(logits, truth), histogram(logits[:2], truth[:2]) + histogram(logits[2:], truth[2:])
    np.testing.assert_array_equal(halves.positive, whole.positive)
    np.testing.assert_array_equal(halves.negative, whole.negative)
    np.testing.assert_allclose(halves.dice, whole.dice, rtol=1e-12)
    assert halves.images == whole.images == len(logits)


def test_pixels_of_one_kind_have_no_temperature() -> None:
    sweep = Sweep.of(LogitHistogram.of(np.full((3, 3), -2.0, np.float32), np.zeros((3, 3), bool), outlined=False))
    record = sweep.record()
    assert record["temperature"] is None
    assert record["best_threshold"] is None
    assert record["thresholds"] == []
    assert record["nll"] == pytest.approx(np.log1p(np.exp(-2)), rel=1e-2)


def test_an_image_without_an_outline_gives_pixels_but_no_dice() -> None:
    logits, truth = images(2)
    one = LogitHistogram.of(logits[0], truth[0])
    both = one + LogitHistogram.of(logits[1], np.zeros_like(truth[1]), outlined=False)
    assert both.images == 1
    np.testing.assert_array_equal(both.dice, one.dice)
    assert both.negative.sum() + both.positive.sum() == logits.size


def test_precision_and_recall_are_counted_pixels() -> None:
    logits, truth = images(1)
    precision, recall = LogitHistogram.of(logits[0], truth[0]).precision_recall()
    claimed = logits[0] > 0
    middle = len(precision) // 2
    assert precision[middle] == pytest.approx((claimed & truth[0]).sum() / claimed.sum(), abs=1e-6)
    assert recall[middle] == pytest.approx((claimed & truth[0]).sum() / truth[0].sum(), abs=1e-6)
    assert recall[0] == 1
    assert recall[-1] == pytest.approx(0, abs=1e-6)
