"""Drawings of a prediction on its X-ray, as RGB arrays at the image's own size. Nothing is measured here."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sgmsnet.prediction import Prediction

# Told apart with every common colour blindness: Okabe and Ito, "Color Universal Design", 2008.
COLOURS: dict[str, tuple[int, int, int]] = {"lungs": (86, 180, 233), "infection": (230, 159, 0)}
_OTHER_COLOURS = ((0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))

OUTLINE_SHARE = 1 / 400  # outline thickness as a fraction of the image's longer side

# Viridis by Nathaniel Smith and Stefan van der Walt (CC0) at nine equal steps.
_VIRIDIS = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)


def draw(prediction: Prediction, *, style: Literal["outline", "fill"] = "outline", opacity: float = 0.35) -> np.ndarray:
    """uint8 (H, W, 3): the X-ray with each class outlined, or filled with the given opacity in [0, 1].

    Classes are drawn in the model's order, later ones on top. Raises ValueError for another style or opacity.
    """
    if style not in ("outline", "fill"):
        raise ValueError(f"The style must be outline or fill, not {style!r}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"The opacity must lie between 0 and 1, not at {opacity:g}.")
    canvas = _rgb(prediction.radiograph.display)
    thickness = max(1, round(max(canvas.shape[:2]) * OUTLINE_SHARE))
    for index, name in enumerate(prediction.classes):
        mask = prediction.masks[name]
        if style == "outline":
            _paint(canvas, outline(mask, thickness=thickness), colour_of(name, index), 1.0)
        else:
            _paint(canvas, mask, colour_of(name, index), opacity)
    return canvas


def attention(prediction: Prediction, name: str) -> np.ndarray:
    """uint8 (H, W, 3): an attention map in viridis, half and half with the X-ray.

    Raises ValueError if the model gave no map of this name.
    """
    if name not in prediction.attention:
        known = ", ".join(prediction.attention) or "none"
        raise ValueError(f"There is no attention map {name!r}; the model gave: {known}.")
    colours = colormap(prediction.geometry.restore(prediction.attention[name]))
    # Halved before the sum, which would not fit into 8 bits.
    return (colours >> 1) + (prediction.radiograph.display >> 1)[..., None]


def colormap(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape (...) -> uint8 RGB (..., 3) in viridis; values outside are clipped."""
    levels = (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.take(_VIRIDIS_TABLE, levels, axis=0)


def colour_of(name: str, index: int = 0) -> tuple[int, int, int]:
    """RGB of a class; classes without a colour of their own take one by their index."""
    return COLOURS.get(name, _OTHER_COLOURS[index % len(_OTHER_COLOURS)])


def outline(mask: np.ndarray, *, thickness: int) -> np.ndarray:
    """bool (H, W): the pixels of a bool (H, W) mask at most `thickness` away from its outside.

    Distance is that of a king on a chess board; beyond the image's border counts as outside.
    """
    window = 2 * thickness + 1
    inner = _all_of_window(np.pad(mask, thickness), window)
    edge: np.ndarray = mask & ~_all_of_window(inner.T, window).T
    return edge


def _all_of_window(mask: np.ndarray, window: int) -> np.ndarray:
    """bool (H, W) -> (H - window + 1, W): whether `window` rows from each one on are all true."""
    result, length = mask, 1
    while length < window:  # doubling the run that is known: log2(window) steps
        step = min(length, window - length)
        result = result[:-step] & result[step:]
        length += step
    return result


def _rgb(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W) -> a new uint8 (H, W, 3)."""
    return np.repeat(image[..., None], 3, axis=2)


def _paint(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    """Blend a colour into canvas, uint8 (H, W, 3), where mask, bool (H, W), is true."""
    where = np.flatnonzero(mask)
    pixels = canvas.reshape(-1, 3)
    shades = np.arange(256, dtype=np.float32)[:, None] * (1 - opacity) + np.multiply(colour, opacity)
    table = (shades + 0.5).astype(np.uint8)  # (256, 3): what each grey becomes in each channel
    pixels[where] = table[pixels[where], np.arange(3)]


def _table(anchors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """uint8 (256, 3), linear between the anchors."""
    at = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), at, channel) for channel in zip(*anchors, strict=True)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


_VIRIDIS_TABLE = _table(_VIRIDIS)
