"""Compares a prediction with a mask that the visitor brought: Dice, IoU, HD95 and where they differ. No Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from sgmsnet import imaging
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.prediction import Prediction
from sgmsnet.training.metrics import Counts
from sgmsnet.training.surface import surface_distance

# Blue, orange and yellow of Okabe and Ito: apart in hue and in lightness with every common colour blindness.
FOUND, MISSED, EXTRA = (86, 180, 233), (213, 94, 0), (240, 228, 66)
SIDE = 1024
_TINT = 0.6
_SAME_ASPECT = 0.01  # relative


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One class of a prediction against a mask, at the image's own size; hd95 in `unit`."""

    image: str
    name: str
    threshold: float
    dice: float
    iou: float
    hd95: float
    unit: Literal["px", "mm"]
    at_detector: bool
    """Whether hd95 holds there, where distances are larger than in the patient."""
    found_px: int
    missed_px: int
    extra_px: int
    remark: str
    """What makes the figures say little, in one sentence, or nothing."""
    picture: np.ndarray
    """uint8 (h, w, 3), no side over 1024: the X-ray with FOUND, MISSED and EXTRA pixels tinted."""


def read_mask(path: Path, *, height: int, width: int) -> np.ndarray:
    """A PNG or TIFF of any bit depth -> bool (height, width), true where imaging.load_mask finds something drawn.

    A mask of another size but the image's aspect is scaled to it. Raises UnreadableImageError, in one sentence.
    """
    drawn = imaging.load_mask(path)
    rows, columns = drawn.shape
    if abs(columns * height - rows * width) > _SAME_ASPECT * rows * width:
        raise UnreadableImageError(
            f"{path.name}: the mask is {columns} by {rows} pixels, but the X-ray is {width} by {height}."
        )
    if drawn.shape == (height, width):
        return drawn
    return np.array(Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST))


def judge(prediction: Prediction, truth: np.ndarray, *, name: str) -> Agreement:
    """Compare the mask of class `name` with truth, bool (H, W); ValueError for an unknown class or another size."""
    if name not in prediction.classes:
        raise ValueError(f"The model has no class {name!r}.")
    mask = prediction.masks[name]
    if truth.shape != mask.shape:
        raise ValueError(f"The truth has the shape {truth.shape}, the prediction {mask.shape}.")
    counts = Counts.of(mask, truth)
    distance = surface_distance(mask, truth, spacing_mm=prediction.radiograph.spacing_mm)
    return Agreement(
        image=prediction.image,
        name=name,
        threshold=prediction.thresholds[name],
        dice=float(counts.dice[0]),
        iou=float(counts.iou[0]),
        hd95=distance.hd95,
        unit=distance.unit,
        at_detector=prediction.radiograph.spacing_at == "detector",
        found_px=int(counts.tp[0]),
        missed_px=int(counts.fn[0]),
        extra_px=int(counts.fp[0]),
        remark=_remark(truth),
        picture=difference(prediction.radiograph.display, mask, truth),
    )


def _remark(truth: np.ndarray) -> str:
    """Often a mask that was drawn otherwise than it is read: Dice alone would look like a model that failed."""
    if not truth.any():
        return "The mask is empty."
    return "The mask covers the whole image." if truth.all() else ""


def difference(grey: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """uint8 (H, W) and two bool (H, W) -> uint8 (h, w, 3), scaled down to SIDE; agreement outside both stays grey."""
    scale = min(1.0, SIDE / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))

    def shrunk(plane: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize(size, how))

    picture = np.repeat(shrunk(grey, Image.Resampling.BILINEAR)[..., None], 3, axis=2)
    predicted, true = (shrunk(plane, Image.Resampling.NEAREST) for plane in (mask, truth))
    for where, colour in ((predicted & true, FOUND), (true & ~predicted, MISSED), (predicted & ~true, EXTRA)):
        tinted = picture[where] * (1 - _TINT) + np.multiply(colour, _TINT)
        picture[where] = (tinted + 0.5).astype(np.uint8)
    return picture
