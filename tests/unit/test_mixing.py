"""Images put together from two halves: pixels, masks and labels move together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgmsnet.config import ModelConfig
from sgmsnet.model import SGMSNet
from sgmsnet.training.mixing import FARTHEST_CUT, NEAREST_CUT, mix_halves

COUNT, SIZE = 16, 40


def batch_of_numbers() -> dict[str, Tensor]:
    """Image and mask of each item are its number; even ones label the first of two classes, odd ones both."""
    number = torch.arange(COUNT).float()
    labelled = torch.ones(COUNT, 2)
    labelled[::2, 1] = 0
    return {
        "image": number.reshape(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE).clone(),
        "mask": number.reshape(-1, 1, 1, 1).expand(-1, 2, SIZE, SIZE).clone(),
        "labelled": labelled,
    }


def mixed(probability: float, *, seed: int = 0) -> dict[str, Tensor]:
    return mix_halves(batch_of_numbers(), probability=probability, generator=torch.Generator().manual_seed(seed))


def test_one_side_of_a_mixed_image_is_another_image_s_with_its_mask_and_the_labels_of_both() -> None:
    result, before = mixed(1.0), batch_of_numbers()
    lines, sides = set(), set()
    for index, (image, mask) in enumerate(zip(result["image"], result["mask"], strict=True)):
        assert (mask == image).all(), "each pixel's mask comes from where the pixel comes from"
        row = image[0, 0]
        assert (image == row).all(), "the line is upright"
        other = {int(number) for number in row} - {index}
        assert len(other) <= 1, "an image is made of two at most"
        first, second = index, next(iter(other), index)
        assert torch.equal(
            result["labelled"][index], torch.minimum(before["labelled"][first], before["labelled"][second])
        )
        if other:
            [line] = torch.nonzero(row[1:] != row[:-1]).flatten().tolist()
            lines.add((line + 1) / SIZE)
            sides.add(int(row[0]) == index)
    assert min(lines) >= NEAREST_CUT
    assert max(lines) <= FARTHEST_CUT + 1 / SIZE
    assert len(lines) > 3
    assert sides == {True, False}, "left sides are replaced and right ones"


def test_as_many_images_are_mixed_as_were_asked_for_and_the_others_stay() -> None:
    before = batch_of_numbers()
    assert all(torch.equal(value, before[name]) for name, value in mixed(0.0).items())
    own = torch.arange(COUNT).reshape(-1, 1, 1, 1)
    changed = [(mixed(0.5, seed=seed)["image"] != own).flatten(1).any(dim=1) for seed in range(60)]
    # One in COUNT is its own partner, and so is not seen to be mixed.
    assert torch.stack(changed).float().mean().item() == pytest.approx(0.5 * (1 - 1 / COUNT), abs=0.05)


def test_a_generator_in_the_same_state_mixes_the_same_way_in_the_memory_that_convolutions_want(
    tiny_config: ModelConfig,
) -> None:
    first, again, other = mixed(0.5)["image"], mixed(0.5)["image"], mixed(0.5, seed=1)["image"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.is_contiguous(memory_format=torch.channels_last)
    whole = {"image": torch.rand(4, 1, 64, 64), "mask": torch.rand(4, 2, 64, 64), "labelled": torch.ones(4, 2)}
    image = mix_halves(whole, probability=1, generator=torch.Generator().manual_seed(0))["image"]
    assert SGMSNet(tiny_config)(image * 255)["logits"].shape == (4, 2, 64, 64)
