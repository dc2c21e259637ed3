"""Dice and IoU of both families, against MONAI and against counting pixels one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU

from sgmsnet.training.metrics import Counts, summarise, worst

MASKS = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(npst.arrays(bool, shape), npst.arrays(bool, shape))
)


def count_slowly(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """tp, fp, fn, tn of masks of one shape, pixel by pixel."""
    pairs = list(zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True))
    return tuple(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))  # type: ignore[return-value]


@settings(deadline=None)
@given(MASKS)
def test_pooled_metrics_are_those_of_all_pixels_together(masks: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, truth = masks
    tp, fp, fn, _ = count_slowly(predicted, truth)
    got = summarise(Counts.of(predicted, truth))
    any_pixels = tp + fp + fn > 0
    assert got["dice_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if any_pixels else 1, abs=2e-5)
    assert got["iou_pooled"] == pytest.approx(tp / (tp + fp + fn) if any_pixels else 1, abs=2e-5)
    assert got["images"] == len(predicted)


@settings(deadline=None)
@given(MASKS)
def test_counts_of_an_image_are_its_pixels(masks: tuple[np.ndarray, np.ndarray]) -> None:
    counts = Counts.of(*masks)
    for i, (predicted, truth) in enumerate(zip(*masks, strict=True)):
        one = (counts.tp[i], counts.fp[i], counts.fn[i], counts.tn[i])
        assert one == count_slowly(predicted, truth)


@settings(deadline=None, max_examples=50)
@given(MASKS)
def test_metrics_per_image_are_those_of_monai(masks: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, truth = (torch.from_numpy(mask)[:, None].float() for mask in masks)  # (N, 1, H, W)
    counts = Counts.of(*masks)
    # MONAI gives NaN for an empty truth; with ignore_empty=False 1 for a pair of empty masks and 0 for a false alarm.
    dice = DiceMetric(ignore_empty=False)(predicted, truth).numpy()[:, 0]
    iou = MeanIoU(ignore_empty=False)(predicted, truth).numpy()[:, 0]
    np.testing.assert_allclose(counts.dice, dice, atol=2e-5)
    np.testing.assert_allclose(counts.iou, iou, atol=2e-5)
    summary = summarise(counts)
    assert summary["dice_per_image"] == pytest.approx(dice.mean(), abs=2e-5)
    assert summary["iou_per_image"] == pytest.approx(iou.mean(), abs=2e-5)


@settings(deadline=None, max_examples=50)
@given(MASKS)
def test_rates_are_those_of_monai_where_these_are_defined(masks: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, truth = (torch.from_numpy(mask)[:, None].float() for mask in masks)
    counts = Counts.of(*masks)
    for name in ("sensitivity", "specificity", "precision"):
        metric = ConfusionMatrixMetric(metric_name=name, reduction="none")
        metric(predicted, truth)
        theirs = metric.aggregate()[0].numpy()[:, 0]
        defined = np.isfinite(theirs) & (denominator(counts, name) > 0)
        np.testing.assert_allclose(getattr(counts, name)[defined], theirs[defined], atol=2e-5)
        assert (getattr(counts, name)[denominator(counts, name) == 0] == 1).all()


def denominator(counts: Counts, rate: str) -> np.ndarray:
    return {
        "sensitivity": counts.tp + counts.fn,
        "specificity": counts.tn + counts.fp,
        "precision": counts.tp + counts.fp,
    }[rate]


@pytest.mark.parametrize(("images", "held"), [(1, 1), (20, 1), (21, 2), (100, 5)])
def test_the_worst_twentieth_is_the_mean_of_the_lowest(images: int, held: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(images) / images)
    assert worst(values) == pytest.approx(np.mean(np.arange(held) / images))


def test_an_empty_mask_scores_one_if_predicted_empty_and_nothing_otherwise() -> None:
    empty, one_pixel = np.zeros((8, 8), bool), np.eye(8, dtype=bool)[:, :1] @ np.ones((1, 8), bool)
    assert Counts.of(empty, empty).dice == 1
    assert Counts.of(empty, empty).iou == 1
    assert Counts.of(one_pixel, empty).dice < 1e-5
    assert Counts.of(empty, one_pixel).dice < 1e-5


def test_pooled_differs_from_per_image_as_worked_out_by_hand() -> None:
    # A large image, right: 90 of 90 pixels. A small one, wrong: 10 pixels, none of them found, 10 others claimed.
    truth, predicted = np.zeros((2, 10, 10), bool), np.zeros((2, 10, 10), bool)
    truth[0, :9] = predicted[0, :9] = True
    truth[1, 0], predicted[1, 1] = True, True
    got = summarise(Counts.of(predicted, truth))
    assert got["dice_per_image"] == pytest.approx((1 + 0) / 2, abs=1e-5)
    assert got["iou_per_image"] == pytest.approx((1 + 0) / 2, abs=1e-5)
    assert got["dice_pooled"] == pytest.approx(180 / (180 + 10 + 10), abs=1e-5)
    assert got["iou_pooled"] == pytest.approx(90 / (90 + 10 + 10), abs=1e-5)


def test_joined_counts_are_those_of_all_images_at_once() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((2, 5, 9, 9)) > 0.5
    joined = Counts.join([Counts.of(p, t) for p, t in zip(predicted, truth, strict=True)])
    assert summarise(joined) == summarise(Counts.of(predicted, truth))


def test_counts_of_large_images_do_not_overflow() -> None:
    huge = Counts(*(np.array([3_000_000_000], np.int64) for _ in range(4)))
    assert Counts.join([huge, huge]).pooled().dice[0] == pytest.approx(0.5)
