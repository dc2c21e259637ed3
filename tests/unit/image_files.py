"""A ramp of greys, and images as the bytes of a file. No assertions."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from hypothesis import settings
from PIL import Image

# The examples that Hypothesis takes in the modules that import this one.
settings.register_profile("imaging", max_examples=60, deadline=None)
settings.load_profile("imaging")

RAMP = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
