"""Pictures made from chest X-rays that are no upright frontal chest X-rays any more, and some that still are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Variant = Callable[[np.ndarray], np.ndarray]


def fold(image: np.ndarray) -> np.ndarray:
    """The mean of the left half and the mirrored right half: one lung over the other, as in a lateral view."""
    half = image.shape[1] // 2
    mean = (image[:, :half].astype(np.uint16) + image[:, ::-1][:, :half]) // 2
    result: np.ndarray = mean.astype(np.uint8)
    return result


def coarse(image: np.ndarray) -> np.ndarray:
    """Through 64 pixels and back to 256: as blurred as the smallest pictures of the test."""
    rows, columns = image.shape
    scale = 64 / max(rows, columns)
    small = (max(16, round(columns * scale)), max(16, round(rows * scale)))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BILINEAR)
    return np.array(picture.resize((4 * small[0], 4 * small[1]), Image.Resampling.LANCZOS))


def _crop(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape
    return image[rows // 4 : rows // 4 + rows // 2, : columns // 2]


UNLIKE: dict[str, Variant] = {
    "upside down": lambda image: image[::-1],
    "turned by 180°": lambda image: image[::-1, ::-1],
    "turned by 90°": lambda image: np.rot90(image),
    "turned by 270°": lambda image: np.rot90(image, 3),
    "inverted": lambda image: 255 - image,
    "a quarter of it": _crop,
    "the left half": lambda image: image[:, : image.shape[1] // 2],
    "folded in the middle": fold,
}
"""By what a person would call them; uint8 (H, W) -> uint8."""
LIKE: dict[str, Variant] = {"blurred": coarse}
"""Still frontal chest X-rays."""
