"""An engine and X-rays whose results can be worked out by hand; no runtime and no weights."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
from PIL import Image, ImageDraw

from engines.base import EngineError, EngineInfo, check_images

LUNG, SICK = 120, 220
"""Grey of healthy and of infected lung in drawn X-rays; everything else is 0."""

INFO = EngineInfo(
    backend="fake",
    precision="fp32",
    device="CPU",
    height=224,
    width=224,
    classes=("lungs", "infection"),
    outputs=("logits", "gate_5", "spatial_2", "memory_5", "embedding"),
    model="cxr",
    model_sha256="0" * 64,
    runtime_version="1.0",
    load_ms=1.0,
)


class FakeEngine:
    """Bright is lung, brighter is infected: logit = (grey - level) / 10 with levels 60 and 170.

    gate_5 is 0.25 everywhere, spatial_2 the brightness, memory_5 rises from 0 to 1 over the columns and the
    embedding is the mean grey 512 times. A whole image of `refuse` grey raises EngineError, one of `spoil`
    grey gives NaN.
    """

    LEVELS = (60.0, 170.0)

    def __init__(self, info: EngineInfo = INFO, *, refuse: int | None = None, spoil: int | None = None) -> None:
        self.info = info
        self.batches: list[int] = []
        self.closed = False
        self._refuse, self._spoil = refuse, spoil
        self._lock = threading.Lock()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        check_images(images, self.info)
        with self._lock:
            self.batches.append(len(images))
        grey = images.astype(np.float32)  # (N, 1, H, W)
        if self._refuse is not None and (images == self._refuse).all(axis=(1, 2, 3)).any():
            raise EngineError("the runtime refused an image")
        levels = np.float32(self.LEVELS[: len(self.info.classes)])[None, :, None, None]
        logits = (grey - levels) / 10
        if self._spoil is not None:
            logits[(images == self._spoil).all(axis=(1, 2, 3))] = np.nan
        n = len(images)
        ramp = np.linspace(0, 1, 7, dtype=np.float32)
        outputs = {
            "logits": logits,
            "gate_5": np.full((n, 1, 7, 7), 0.25, np.float32),
            "spatial_2": grey[:, :, ::4, ::4] / 255,
            "memory_5": np.broadcast_to(ramp, (n, 1, 7, 7)).copy(),
            "embedding": np.repeat(grey.mean(axis=(1, 2, 3))[:, None], 512, axis=1),
        }
        return {name: outputs[name] for name in self.info.outputs}

    def close(self) -> None:
        self.closed = True


def info_with(**changes: object) -> EngineInfo:
    """INFO with some fields changed."""
    return dataclasses.replace(INFO, **changes)  # type: ignore[arg-type]


def draw_xray(
    height: int = 224,
    width: int = 224,
    *,
    lungs: tuple[tuple[float, float, float, float], ...] = ((0.15, 0.2, 0.42, 0.8), (0.58, 0.2, 0.85, 0.8)),
    sick: tuple[tuple[float, float, float, float], ...] = (),
) -> np.ndarray:
    """uint8 (height, width): ellipses in boxes (left, top, right, bottom), given as fractions of the size."""
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for boxes, grey in ((lungs, LUNG), (sick, SICK)):
        for left, top, right, bottom in boxes:
            pen.ellipse((left * width, top * height, right * width, bottom * height), fill=grey)
    return np.array(image)
