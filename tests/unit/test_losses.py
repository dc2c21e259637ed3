"""The loss: the formula, classes without labels, empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgmsnet.training.losses import PartialLabelLoss


def loss_by_formula(
    logits: np.ndarray, masks: np.ndarray, labelled: np.ndarray, weights: list[float], dice_weight: float
) -> float:
    """Mean over labelled (image, class) of w (BCE + d (1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1))), in float64.

    Of an empty mask the second term is d mean(p) / (mean(p) + 0.01).
    """
    total = count = 0.0
    for i, k in np.argwhere(labelled > 0):
        p, t = 1 / (1 + np.exp(-logits[i, k].astype(np.float64))), masks[i, k].astype(np.float64)
        bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
        dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) if t.any() else p.mean() / (p.mean() + 0.01)
        total += weights[k] * (bce + dice_weight * dice)
        count += weights[k]
    return total / count


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits, masks (3, 2, 8, 8) and labelled (3, 2) of which three pairs are known."""
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.normal(0, 2, (3, 2, 8, 8)).astype(np.float32)).requires_grad_()
    masks = torch.from_numpy((rng.random((3, 2, 8, 8)) > 0.6).astype(np.float32))
    return logits, masks, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("weights", "dice_weight"), [([1.0, 1.0], 1.0), ([0.5, 2.0], 1.0), ([1.0, 3.0], 0.25)])
def test_the_loss_is_the_formula(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], weights: list[float], dice_weight: float, empty: bool
) -> None:
    logits, masks, labelled = batch
    masks[1, 0] *= not empty
    got = PartialLabelLoss(weights, dice_weight=dice_weight)(logits, masks, labelled).item()
    arrays = (tensor.detach().numpy() for tensor in batch)
    assert got == pytest.approx(loss_by_formula(*arrays, weights, dice_weight), rel=1e-5)


def test_unlabelled_classes_have_no_gradient(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    logits, masks, labelled = batch
    PartialLabelLoss([1.0, 1.0])(logits, masks, labelled).backward()
    assert logits.grad is not None
    touched = (logits.grad != 0).flatten(2).all(dim=2)
    untouched = (logits.grad == 0).flatten(2).all(dim=2)
    assert torch.equal(touched, labelled > 0)
    assert torch.equal(untouched, labelled == 0)


def test_a_batch_without_any_label_has_loss_zero_and_no_gradient(
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, masks, labelled = batch
    loss = PartialLabelLoss([1.0, 1.0])(logits, masks, torch.zeros_like(labelled))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_empty_mask_costs_less_the_less_is_predicted() -> None:
    loss, masks, labelled = PartialLabelLoss([1.0]), torch.zeros(1, 1, 16, 16), torch.ones(1, 1)
    costs = [loss(torch.full((1, 1, 16, 16), level), masks, labelled).item() for level in (0.0, -4.0, -8.0, -16.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-3


def test_a_mask_of_probabilities_counts_as_empty_where_none_is_over_one_half() -> None:
    loss, labelled = PartialLabelLoss([1.0], dice_weight=100.0), torch.ones(1, 1)
    nothing = torch.full((1, 1, 16, 16), -16.0)
    doubtful = torch.full((1, 1, 16, 16), 0.4)
    assert loss(nothing, doubtful, labelled).item() < 10, "soft Dice asks for nothing"
    assert loss(nothing, doubtful + 0.2, labelled).item() > 90


def test_a_false_alarm_in_a_healthy_chest_is_felt_as_much_as_a_miss_in_an_ill_one() -> None:
    """A blob of 3 % of the image, half believed where nothing is, against the same blob outlined and not believed."""
    blob = torch.zeros(1, 1, 100, 100)
    blob[..., 30:60, 40:50] = 1
    slopes = []
    for logits, masks in ((6 * blob - 6, torch.zeros_like(blob)), (torch.full_like(blob, -2.0), blob)):
        logits.requires_grad_()
        PartialLabelLoss([1.0])(logits, masks, torch.ones(1, 1)).backward()
        assert logits.grad is not None
        slopes.append(float((logits.grad * blob).abs().sum()))
    assert 0.5 < slopes[0] / slopes[1] < 4, "0.3 with the smoothing of one pixel"
