"""Whether an image looks like the frontal chest X-rays that a model was trained on; numpy and SciPy only.

Two kinds of evidence, both from outputs of the graph: the embedding (512 values that describe the image) and the
shape of the lungs that were found. A logistic regression joins them. Fitting is in training/familiarity.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.special import expit

PREFIX = "familiarity."
"""Of the names under which a weights file keeps the statistics."""
SHAPE_FEATURES = 13
_ROWS = 56  # enough to tell a shape by, in a quarter of a millisecond
_UNSURE = 2.0  # lung logits below are neither lung nor background: probability 0.12 to 0.88


@dataclass(frozen=True)
class Familiarity:
    """How much an image resembles those the model was trained on: score in [0, 1], and the verdict, score >= 0.5.

    A header that says otherwise overrules the score, which is None for a model that cannot tell.
    """

    score: float | None
    familiar: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class FamiliarityModel:
    """The distribution of the training images, float32 arrays; calling it judges an image.

    mean (C,) and axes (R, C) whiten an embedding: z = axes @ (embedding - mean). rest (1,) is the variance in each
    direction beside the axes. shape_mean, shape_scale (13,) standardise the shape of the lungs. weights (R + 2 + 26,)
    and bias (1,) are those of the logistic regression on `features`.
    """

    mean: np.ndarray
    axes: np.ndarray
    rest: np.ndarray
    shape_mean: np.ndarray
    shape_scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def __post_init__(self) -> None:
        axes, channels = self.axes.shape if self.axes.ndim == 2 else (0, 0)
        expected: dict[str, tuple[int, ...]] = {
            "mean": (channels,),
            "axes": (axes, channels),
            "rest": (1,),
            "shape_mean": (SHAPE_FEATURES,),
            "shape_scale": (SHAPE_FEATURES,),
            "weights": (axes + 2 + 2 * SHAPE_FEATURES,),
            "bias": (1,),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{PREFIX}{name} is not a finite array of the shape {shape}")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> FamiliarityModel:
        """From the arrays of a weights file, by prefixed name; raises ValueError where they do not fit."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if PREFIX + name not in tensors]:
            raise ValueError(f"{PREFIX}{missing[0]} is missing")
        return cls(**{name: tensors[PREFIX + name].astype(np.float32) for name in names})

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by prefixed name, as a weights file keeps them."""
        return {PREFIX + field.name: getattr(self, field.name).astype("<f4") for field in fields(self)}

    def __call__(self, embedding: np.ndarray, lungs: np.ndarray | None) -> Familiarity:
        """Judge an image by its embedding float32 (C,) and its lung logits float32 (h, w), without the padding.

        Raises ValueError where the embedding has another length.
        """
        if embedding.shape != self.mean.shape:
            raise ValueError(f"the embedding has the shape {embedding.shape}, and the statistics {self.mean.shape}")
        shape = np.zeros(SHAPE_FEATURES) if lungs is None else shape_features(lungs)
        score = float(expit(self.features(embedding, shape) @ self.weights.astype(np.float64) + self.bias[0]))
        return Familiarity(score, score >= 0.5)

    def features(self, embedding: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """(..., C) and (..., 13) -> float64 (..., R + 2 + 26): what the regression sees.

        The whitened embedding; the logarithms of its Mahalanobis distance along the axes and beside them; the
        standardised shape of the lungs and its squares, cut off so that no single one decides.
        """
        centred = embedding.astype(np.float64) - self.mean
        z = centred @ self.axes.T.astype(np.float64)
        variance = 1 / np.square(self.axes, dtype=np.float64).sum(axis=1)
        beside = np.square(centred).sum(-1) - (z**2 * variance).sum(-1)
        distances = np.stack([(z**2).mean(-1), np.maximum(beside, 0) / self.rest[0]], axis=-1)
        s = np.clip((shape - self.shape_mean) / self.shape_scale, -6, 6)
        return np.concatenate([np.clip(z, -6, 6), np.log(distances + 1e-3), s, s**2], axis=-1)


def shape_features(lungs: np.ndarray) -> np.ndarray:
    """Lung logits float32 (h, w) of the whole image -> float64 (13,): how much its mask is like two lungs."""
    step = max(1, lungs.shape[0] // _ROWS)
    lungs = lungs[::step, ::step]
    mask = lungs > 0
    rows, columns = mask.shape
    area = float(mask.mean())
    unsure = float((np.abs(lungs) < _UNSURE).mean())
    if not mask.any():
        return np.array([area, unsure, 1.0, *np.zeros(SHAPE_FEATURES - 3)])
    labels: Any
    labels, _ = ndimage.label(mask)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    second = float(sizes[1]) if len(sizes) > 1 else 0.0
    across, down = mask.mean(axis=0), mask.mean(axis=1)
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    centre_x, centre_y = float(across @ x / across.sum()), float(down @ y / down.sum())
    spread_x = float(np.sqrt(across @ (x - centre_x) ** 2 / across.sum()))
    spread_y = float(np.sqrt(down @ (y - centre_y) ** 2 / down.sum()))
    skew_y = float(down @ (y - centre_y) ** 3 / down.sum()) / (spread_y**3 + 1e-6)
    widths = mask * np.abs(x - centre_x)  # lungs are wider below than above
    width = widths.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    slope = float(((y - centre_y) * width * down).sum() / (down.sum() * spread_y * spread_x + 1e-6))
    middle = int(np.clip(round(centre_x * columns), 1, columns - 1))
    half = min(middle, columns - middle)
    left, right = mask[:, middle - half : middle][:, ::-1], mask[:, middle : middle + half]
    both = np.logical_and(left, right).sum() / max(int(np.logical_or(left, right).sum()), 1)
    gap = 1 - float(mask[:, max(middle - 1, 0) : middle + 1].mean()) / max(float(across.max()), 1e-6)
    compact = float(sizes[:2].sum() / sizes.sum())
    amount = (area, unsure, unsure / (area + 0.01), compact, second / float(sizes[0]))
    return np.array([*amount, centre_x, centre_y, spread_x, spread_y, skew_y, slope, float(both), gap])
