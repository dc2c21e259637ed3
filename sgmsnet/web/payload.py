"""Prediction -> the JSON that the viewer draws. Transport only: what the numbers mean is decided elsewhere.

The browser gets the picture, one probability map per class and the attention maps, all small, and does every
redraw by itself. Data-URIs instead of files: two visitors with the same picture never share a path.
"""

from __future__ import annotations

import base64
import io
import time
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image
from scipy.special import expit

from sgmsnet import overlay
from sgmsnet.imaging import Radiograph
from sgmsnet.png import mask_png
from sgmsnet.prediction import Prediction

PICTURE_SIDE = 1024
PROBABILITY_SIDE = 512
ATTENTION_SIDE = 64
SCALE_STOPS = 17

_LEVELS = {"2": "finest detail", "3": "fine detail", "4": "coarse", "5": "coarsest"}


def from_prediction(prediction: Prediction, *, attribution: str = "") -> dict[str, Any]:
    """Everything the viewer shows for one image; a fresh `run` makes it redraw even for equal content."""
    began = time.perf_counter()
    record = prediction.record()
    payload: dict[str, Any] = {
        "run": uuid4().hex,
        "error": None,
        "name": prediction.image,
        "attribution": attribution,
        "picture": _picture(prediction.radiograph),
        "classes": [_class(prediction, index) for index in range(len(prediction.classes))],
        "divider": _divider(prediction),
        "attention": [_attention(prediction, name) for name in prediction.attention],
        "scale": overlay.colormap(np.linspace(0, 1, SCALE_STOPS)).tolist(),
        "record": record,
        "notes": list(prediction.engine.notes),
    }
    # The record leaves with the time of its own encoding, which is the last stage of this image.
    record["timings_ms"] = {**record["timings_ms"], "encode": round((time.perf_counter() - began) * 1000, 2)}
    return payload


def exact(prediction: Prediction) -> dict[str, Any]:
    """Masks by class as data-URIs and the record, at the image's own size and the prediction's thresholds."""
    masks = {name: _png_uri(mask_png(mask)) for name, mask in prediction.masks.items()}
    return {"run": uuid4().hex, "error": None, "masks": masks, "record": prediction.record()}


def from_error(sentence: str) -> dict[str, Any]:
    """What the viewer shows where the result would be."""
    return {"run": uuid4().hex, "error": sentence}


def thumbnail(radiograph: Radiograph, *, side: int = 144) -> str:
    """A square crop of `side` pixels as a data-URI, for the strip of examples."""
    picture = Image.fromarray(radiograph.display)
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    square = picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
    return _uri(square, "jpeg", quality=82)


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled down, never up, so that the longer one is at most `side`; both at least 1."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picture(radiograph: Radiograph) -> dict[str, Any]:
    """Up to 8 bit travels as JPEG; deeper as high and low byte in two channels of a lossless PNG."""
    size = fit(radiograph.width, radiograph.height, PICTURE_SIDE)
    deep = radiograph.depth > 8
    return {
        "uri": _deep(radiograph, size) if deep else _shallow(radiograph, size),
        "deep": deep,
        "top": 2**radiograph.depth - 1 if deep else 255,
        "window": [float(value) for value in radiograph.window],
        "width": radiograph.width,
        "height": radiograph.height,
        "format": radiograph.format,
        "depth": radiograph.depth,
        "spacing_mm": list(radiograph.spacing_mm) if radiograph.spacing_mm else None,
        "spacing_at": radiograph.spacing_at,
    }


def _shallow(radiograph: Radiograph, size: tuple[int, int]) -> str:
    picture = Image.fromarray(radiograph.pixels.astype(np.uint8, copy=False))
    return _uri(_shrink(picture, size), "jpeg", quality=92)


def _deep(radiograph: Radiograph, size: tuple[int, int]) -> str:
    # Pillow resizes 32-bit floats with antialiasing but 16-bit integers without.
    picture = _shrink(Image.fromarray(radiograph.pixels.astype(np.float32)), size)
    values = np.clip(np.asarray(picture) + 0.5, 0, 65535).astype(np.uint16)
    channels = np.zeros((*values.shape, 3), np.uint8)
    channels[..., 0], channels[..., 1] = values >> 8, values & 255
    return _uri(Image.fromarray(channels), "png", compress_level=1)


def _shrink(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _class(prediction: Prediction, index: int) -> dict[str, Any]:
    name = prediction.classes[index]
    mask = prediction.masks[name]
    return {
        "name": name,
        "colour": list(overlay.colour_of(name, index)),
        "threshold": float(prediction.thresholds[name]),
        "probability": _grey_uri(_probability(prediction, index)),
        "mask": _png_uri(mask_png(mask)),
    }


def _probability(prediction: Prediction, index: int) -> np.ndarray:
    """Like Prediction.probability, at the viewer's size instead of the image's own: float32 (h, w)."""
    geometry = prediction.geometry
    width, height = fit(geometry.image_width, geometry.image_height, PROBABILITY_SIDE)
    logits = geometry.restore(prediction.logits[index], height=height, width=width)
    probability: np.ndarray = expit(logits / np.float32(prediction.temperature[prediction.classes[index]]))
    return probability


def _divider(prediction: Prediction) -> list[float] | None:
    """The line between right and left lung, one fraction of the width for each row of the probability maps."""
    divider = prediction.divider
    if divider is None:
        return None
    geometry = prediction.geometry
    _, rows = fit(geometry.image_width, geometry.image_height, PROBABILITY_SIDE)
    centres = (np.arange(rows) + 0.5) * (geometry.image_height / rows) - 0.5
    columns = np.interp(centres, np.arange(geometry.image_height), divider)
    return [round(float(column), 4) for column in (columns + 0.5) / geometry.image_width]


def _attention(prediction: Prediction, name: str) -> dict[str, Any]:
    geometry = prediction.geometry
    width, height = fit(geometry.image_width, geometry.image_height, ATTENTION_SIDE)
    plane = geometry.restore(prediction.attention[name], height=height, width=width)
    title, sentence = describe(name)
    return {"name": name, "title": title, "sentence": sentence, "map": _grey_uri(plane)}


def describe(name: str) -> tuple[str, str]:
    """Title of an attention map and the sentence that says what it shows."""
    kind, _, level = name.rpartition("_")
    detail = _LEVELS.get(level, f"level {level}")
    if kind == "gate":
        return (
            f"Gate {level}, {detail}",
            "Bright: the gate lets these encoder pixels pass into the decoder; dark: it holds them back.",
        )
    if kind == "spatial":
        return (
            f"Spatial attention {level}, {detail}",
            "Bright: the decoder keeps its features here at full strength; dark: it turns them down.",
        )
    if kind == "memory":
        return (
            f"Memory {level}",
            "Bright: the region was matched to a few learned memory slots; dark: the match was spread over many.",
        )
    return name, "A map from inside the network; bright means a higher value."


def jpeg_uri(picture: Image.Image) -> str:
    """A picture as a data-URI."""
    return _uri(picture, "jpeg", quality=92)


def _png_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _grey_uri(plane: np.ndarray) -> str:
    grey = np.clip(plane * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return _uri(Image.fromarray(grey), "png", compress_level=1)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
