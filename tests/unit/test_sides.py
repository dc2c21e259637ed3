"""Left and right lung against a radiologist's outlines, by the shipped model and by the outlines alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.measurements import find_divider
from tests.needs import data_dir

RIGHT, LEFT = 1, 2
"""The patient's, in the masks of anatomy/."""


def labelled(split: str) -> list[tuple[Path, np.ndarray]]:
    """Images and their labels uint8 (H, W)."""
    masks = sorted((data_dir() / "anatomy" / split / "masks").iterdir())
    return [(path.parents[1] / "images" / path.name, np.asarray(Image.open(path))) for path in masks]


def part_on_its_side(labels: np.ndarray, lungs: np.ndarray, divider: np.ndarray) -> float:
    """Of the outlined pixels inside the lungs, the part that the divider puts on the right side of the right lung."""
    image_left = np.arange(labels.shape[1]) < divider[:, None]
    outlined = lungs & ((labels == RIGHT) | (labels == LEFT))
    return float(((labels == RIGHT) == image_left)[outlined].mean())


@pytest.mark.parametrize("split", ["train", "val"])
def test_outlines_alone_tell_the_sides(split: str) -> None:
    known = 0
    for image, labels in labelled(split):
        lungs = (labels == RIGHT) | (labels == LEFT)
        divider = find_divider(lungs, height=labels.shape[0], width=labels.shape[1])
        if divider is not None:
            known += 1
            assert part_on_its_side(labels, lungs, divider) > 0.99, image.name
    assert known >= 0.9 * len(labelled(split))


@pytest.mark.parametrize(("split", "images"), [("train", 67), ("val", 14)])
def test_the_shipped_model_tells_the_sides_of_every_image(split: str, images: int) -> None:
    pipeline = sgmsnet.load("cxr", engine="onnxruntime")
    cases = labelled(split)
    assert len(cases) == images
    for image, labels in cases:
        prediction = pipeline.predict(image)
        assert prediction.measurements.sides_known, image.name
        assert prediction.divider is not None
        assert part_on_its_side(labels, prediction.masks["lungs"], prediction.divider) >= 0.999, image.name
