"""Images put together from the halves of two, so that each lung is judged by itself."""

from __future__ import annotations

import torch
from torch import Tensor

NEAREST_CUT, FARTHEST_CUT = 0.4, 0.6
"""Where the line between both parts may run, of the width: near the spine."""


def mix_halves(batch: dict[str, Tensor], *, probability: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Replace one side of some images of a batch, and of their masks, by that of other images of it.

    {image (B, 1, H, W), mask (B, K, H, W), labelled (B, K)} -> the same. CutMix (Yun et al., ICCV 2019) with an upright
    line near the spine for its rectangle. A class counts as far as both images label it. generator: of the CPU.
    """
    image, mask, labelled = batch["image"], batch["mask"], batch["labelled"]
    count, width = len(image), image.shape[-1]
    other = torch.randperm(count, generator=generator)
    mixed, right_side, place = torch.rand(3, count, generator=generator)
    line = (NEAREST_CUT + (FARTHEST_CUT - NEAREST_CUT) * place) * width
    beyond = torch.arange(width) >= line[:, None]  # (B, W)
    replaced = (beyond == (right_side < 0.5)[:, None]) & (mixed < probability)[:, None]
    other, replaced = other.to(image.device), replaced.to(image.device)
    columns, touched = replaced[:, None, None, :], replaced.any(dim=1)[:, None]
    return {
        "image": torch.where(columns, image[other], image).contiguous(memory_format=torch.channels_last),
        "mask": torch.where(columns, mask[other], mask),
        "labelled": torch.where(touched, torch.minimum(labelled, labelled[other]), labelled),
    }
