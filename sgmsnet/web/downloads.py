"""What the page hands out that only the server can make: overlay, report and DICOM segmentation. Knows no Gradio.

Bytes travel in the answer to the one who asked, and never lie on the disk. Who the patient is never leaves with them.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from PIL import Image

from engines.base import EngineError, EngineUnavailable
from sgmsnet import html_report, overlay
from sgmsnet.dicom_seg import SegmentationError, write_segmentation
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.prediction import Prediction
from sgmsnet.web.desk import Desk, Source

Kind = Literal["overlay", "report", "seg"]
KINDS: tuple[Kind, ...] = ("overlay", "report", "seg")

log = logging.getLogger(__name__)


def make(desk: Desk, source: Source, *, kind: str, engine: str, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """{name, type, data (base64)} of one file for the image at the thresholds, or a payload with one sentence."""
    if kind not in KINDS:
        return desk.refuse("There is no such download.")
    try:
        path, attribution = desk.find(source)
        prediction = desk.predict(path, name=source.name, engine=engine, thresholds=thresholds)
        stem = PurePath(source.name).stem
        if kind == "seg":
            return _file(f"{stem}_seg.dcm", "application/dicom", write_segmentation(prediction, path))
        if kind == "overlay":
            return _file(f"{stem}_overlay.png", "image/png", _overlay(prediction))
        page = html_report.render(prediction, attribution=attribution)
        return _file(f"{stem}_report.html", "text/html", page.encode("utf-8"))
    except (UnreadableImageError, SegmentationError, EngineUnavailable, EngineError, ValueError) as error:
        return desk.refuse(str(error))
    except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
        log.exception("making a %s failed", kind)
        return desk.refuse(f"The file for {source.name} could not be made; the server's log says why.")


def _overlay(prediction: Prediction) -> bytes:
    """The X-ray at its own size with every class outlined, as the command line writes it."""
    buffer = io.BytesIO()
    Image.fromarray(overlay.draw(prediction)).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _file(name: str, kind: str, data: bytes) -> dict[str, Any]:
    return {"error": None, "file": {"name": name, "type": kind, "data": base64.b64encode(data).decode("ascii")}}
