"""Mask files -> boolean arrays. Needs neither torch nor MONAI, so that evaluation runs where only an engine is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sgmsnet.imaging import UnreadableImageError, load_mask
from sgmsnet.training.data import DatasetError

_LABELS = 16
"""Different values of a mask that are taken for labels; more are the smooth edges of one."""


def read_mask(path: Path, *, shape: tuple[int, int]) -> np.ndarray:
    """Read a mask file of any bit depth -> bool (H, W); anything above 0 is foreground.

    Of a JPEG, whose edges ring far out, and of smooth edges (more greys than labels have), it is what is brighter than
    half of the brightest pixel; with a palette or transparency, what was drawn (imaging.load_mask). Raises DatasetError
    when it cannot be read or has another size than its image, which has `shape` (H, W).
    """
    try:
        with Image.open(path) as file:
            if file.mode in ("P", "LA", "RGBA") or "transparency" in file.info:
                mask = load_mask(path)
            else:
                grey = np.asarray(file)
                mask = grey > (grey.max() / 2 if file.format == "JPEG" or _is_smooth(grey) else 0)
    except (OSError, UnreadableImageError) as error:
        raise DatasetError(f"{path}: the mask cannot be read ({error})") from None
    if mask.ndim == 3:
        mask = np.any(mask, axis=2)
    if mask.shape != shape:
        raise DatasetError(f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}")
    return mask


def _is_smooth(grey: np.ndarray) -> bool:
    """Whether it is one mask with soft edges up to the brightest greys, and not labels, as more than 8 bits are."""
    if grey.dtype != np.uint8 or grey.max() < 128:
        return False
    return bool(np.count_nonzero(np.bincount(grey.ravel(), minlength=256)) > _LABELS)
