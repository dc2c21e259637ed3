"""X-rays and masks whose figures can be worked out by hand, and the command that evaluates them. No assertions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sgmsnet.cli import main
from tests.fakes import LUNG, SICK


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def xray(*, lungs: slice = slice(40, 140), sick: slice | None = None) -> np.ndarray:
    """uint8 (224, 224), the fake engine's size: columns 60 to 160 are lung in the rows given, infected in others."""
    image = np.zeros((224, 224), np.uint8)
    image[lungs, 60:160] = LUNG
    if sick is not None:
        image[sick, 60:160] = SICK
    return image


def rows(first: int, last: int) -> np.ndarray:
    """A mask file, 0 and 255: columns 60 to 160 of these rows."""
    mask = np.zeros((224, 224), np.uint8)
    mask[first:last, 60:160] = 255
    return mask


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])
