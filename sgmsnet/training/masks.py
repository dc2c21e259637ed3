"""Mask files -> boolean arrays. Needs neither torch nor MONAI, so that evaluation runs where only an engine is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sgmsnet.imaging import UnreadableImageError, load_mask
from sgmsnet.training.data import DatasetError


def read_mask(path: Path, *, shape: tuple[int, int]) -> np.ndarray:
    """Read a mask file of any bit depth -> bool (H, W); anything above 0 is foreground.

    Of a JPEG, whose edges ring far out, it is what is brighter than half of its brightest pixel; with a palette, what
    has a colour (imaging.load_mask). Raises DatasetError when it cannot be read or has another size than its image,
    which has `shape` (H, W).
    """
    try:
        with Image.open(path) as file:
            if file.mode == "P":
                mask = load_mask(path)
            else:
                grey = np.asarray(file)
                mask = grey > (grey.max() / 2 if file.format == "JPEG" else 0)
    except (OSError, UnreadableImageError) as error:
        raise DatasetError(f"{path}: the mask cannot be read ({error})") from None
    if mask.ndim == 3:
        mask = np.any(mask[..., : 1 if mask.shape[2] == 2 else 3], axis=2)  # opacity is not the mask
    if mask.shape != shape:
        raise DatasetError(f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}")
    return mask
