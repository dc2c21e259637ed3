"""The training loss: binary cross-entropy and soft Dice per image and class, over labelled classes only."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

EMPTY_SHARE = 0.01
"""Part of an image that, painted where nothing is outlined, costs half of the soft Dice loss: as much as 500 pixels of
224x224. With the smoothing of one pixel the loss of an empty mask is 1 for any false alarm, and has no slope."""


class PartialLabelLoss(nn.Module):
    """Mean over the labelled (image, class) pairs of BCE + weight * soft Dice loss (MONAI's, Milletari et al., 2016).

    Soft Dice is taken per image, since the per-image Dice is what is reported. Of an empty mask it is a / (a +
    EMPTY_SHARE), a the mean probability: the same loss with as much smoothing.
    """

    def __init__(self, class_weights: list[float], *, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)
        self.dice = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, masks: Tensor, labelled: Tensor) -> Tensor:
        """logits, masks (B, K, H, W) of 0 to 1, labelled (B, K) of 0 to 1 -> scalar, 0 if nothing is labelled.

        A mask of probabilities is an empty one where it is nowhere over one half.
        """
        logits = logits.float()
        bce = nn.functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=(2, 3))
        dice = self.dice(logits, masks).flatten(1)  # (B, K)
        painted = logits.sigmoid().mean(dim=(2, 3))
        dice = torch.where(masks.amax(dim=(2, 3)) > 0.5, dice, painted / (painted + EMPTY_SHARE))
        weights = labelled * self.class_weights
        total: Tensor = ((bce + self.dice_weight * dice) * weights).sum() / weights.sum().clamp(min=1e-6)
        return total
