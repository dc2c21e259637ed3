"""Samples -> tensors: images through the same `imaging.prepare` as in use, masks with them, augmentation by MONAI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandGridDistortiond,
    Transform,
)
from monai.transforms.spatial.array import RandAffineGrid
from monai.utils import convert_to_tensor
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sgmsnet import imaging
from sgmsnet.training.data import Sample
from sgmsnet.training.masks import read_mask
from sgmsnet.training.recipe import Augmentation

Item = dict[str, Any]


class SegmentationDataset(Dataset[Item]):
    """Samples at one input size, held in memory as bytes: image (1, H, W), mask (K, H, W), labelled (K)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        *,
        size: int,
        transform: Transform | None = None,
    ) -> None:
        self.samples, self.classes, self.size, self.transform = list(samples), tuple(classes), size, transform
        self.images = np.zeros((len(self.samples), 1, size, size), np.uint8)
        self.masks = np.zeros((len(self.samples), len(self.classes), size, size), np.uint8)
        self.labelled = np.array([[c in s.labelled for c in self.classes] for s in self.samples], np.float32)
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(self._read, range(len(self.samples))):
                pass

    def _read(self, index: int) -> None:
        sample = self.samples[index]
        radiograph = imaging.load(sample.image)
        self.images[index], geometry = imaging.prepare(radiograph, height=self.size, width=self.size)
        rectangle = (
            slice(geometry.top, geometry.top + geometry.height),
            slice(geometry.left, geometry.left + geometry.width),
        )
        for k, name in enumerate(self.classes):
            if name in sample.masks:
                mask = read_mask(sample.masks[name], shape=(radiograph.height, radiograph.width))
                area = Image.fromarray(mask.astype(np.uint8) * 255).resize(
                    (geometry.width, geometry.height), Image.Resampling.BOX
                )
                self.masks[index, k][rectangle] = np.where(np.asarray(area) > 127, 255, 0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """One image float32 (1, H, W) of 0 to 255, mask float32 (K, H, W) of 0 to 1, labelled float32 (K) of 0 to 1.

        Masks are 0 or 1, and labelled too, without pseudo-labels (pseudo_labels.py).
        """
        item: Item = {
            "image": torch.from_numpy(self.images[index]).float(),
            "mask": torch.from_numpy(self.masks[index]).float() / 255,
        }
        if self.transform is not None:
            changed: Any = self.transform(item)
            # Plain tensors: MONAI's carry metadata through every operation of the network, at a cost.
            item = {key: convert_to_tensor(changed[key]) for key in ("image", "mask")}
        item["labelled"] = torch.from_numpy(self.labelled[index])
        return item


class SizeAndAspectGrid(RandAffineGrid):
    """MONAI's random rotation, shift and scale, but size is drawn for both axes together and width : height apart.

    MONAI draws the scales of both axes independently, so that width : height would change with the size too. shift is
    in pixels.
    """

    def __init__(self, options: Augmentation, *, shift: float) -> None:
        super().__init__(rotate_range=float(np.radians(options.rotate_degrees)), translate_range=(shift, shift))
        self.options = options

    def randomize(self, data: Any | None = None) -> None:
        super().randomize()
        size = 1 + self.R.uniform(-self.options.scale, self.options.scale)
        widest = math.log1p(self.options.aspect)
        stretch = math.exp(self.R.uniform(-widest, widest) / 2)  # of the width; the height shrinks by as much
        # The grid says where each pixel comes from, so it grows as the image shrinks; rows before columns.
        self.scale_params = [stretch / size, 1 / (size * stretch)]


def augmentation(options: Augmentation, *, size: int) -> Compose:
    """The random changes of training images, geometry for image and mask alike, grey levels for the image.

    Of grey levels only the curve changes (gamma): the network normalises each image, so contrast and brightness that
    change in proportion would be undone, but for what they clip.
    """
    both, image = ["image", "mask"], ["image"]
    shift = options.shift * size
    affine = RandAffined(
        both,
        prob=0.9,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    affine.rand_affine.rand_affine_grid = SizeAndAspectGrid(options, shift=shift)
    return Compose(
        [
            RandFlipd(both, prob=options.flip, spatial_axis=1),
            affine,
            RandGridDistortiond(
                both,
                prob=options.elastic_probability,
                num_cells=4,  # divides every size: MONAI squeezes what is left over into the last pixels
                distort_limit=options.elastic,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            RandAdjustContrastd(image, prob=options.gamma_probability, gamma=options.gamma),
            RandGaussianNoised(image, prob=options.noise_probability, std=options.noise),
            RandGaussianSmoothd(
                image,
                prob=options.blur_probability,
                sigma_x=(0.2, options.blur_sigma),
                sigma_y=(0.2, options.blur_sigma),
            ),
            RandCoarseDropoutd(
                image,
                prob=options.dropout_probability,
                holes=1,
                max_holes=4,
                spatial_size=4,
                max_spatial_size=size // 8,
                fill_value=0.0,
            ),
        ]
    )


def draw(lengths: Sequence[int], weights: Sequence[float], *, samples: int, seed: int, epoch: int) -> list[int]:
    """Indices of concatenated sources for an epoch counted from 0, in random order, each source in its weight's share.

    Each source is shuffled and read to its end before an image comes again, over epochs too.
    """
    shares = _shares(weights, samples)
    starts = np.cumsum([0, *lengths[:-1]])
    drawn = []
    for source, (length, share, start) in enumerate(zip(lengths, shares, starts, strict=True)):
        places = np.arange(epoch * share, (epoch + 1) * share)
        for turn in np.unique(places // length):
            order = np.random.default_rng([seed, source, int(turn)]).permutation(length)
            drawn.append(start + order[places[places // length == turn] % length])
    mixed = np.concatenate(drawn)
    np.random.default_rng([seed, len(lengths), epoch]).shuffle(mixed)
    return [int(index) for index in mixed]


def _shares(weights: Sequence[float], samples: int) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to `samples`: largest remainders first."""
    exact = np.array(weights, np.float64) * samples / math.fsum(weights)
    shares = np.floor(exact).astype(int)
    for source in np.argsort(shares - exact, kind="stable")[: samples - int(shares.sum())]:
        shares[source] += 1
    return [int(share) for share in shares]


def collate_channels_last(items: list[Item]) -> dict[str, Tensor]:
    """Stack items; images (B, 1, H, W) in channels-last memory, as the convolutions want them."""
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    return batch
