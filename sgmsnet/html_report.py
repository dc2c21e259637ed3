"""One prediction as one HTML page that needs nothing else: for the screen, for print, to be sent. Measures nothing."""

from __future__ import annotations

import base64
import io
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

import sgmsnet
from sgmsnet import overlay
from sgmsnet.measurements import INFECTION, LUNGS
from sgmsnet.prediction import STAGES, Prediction

PICTURE_SIDE = 1024
_TEMPLATE = Path(__file__).with_suffix(".html")
_REFUSAL = (
    '<p class="banner" role="alert"><strong>This does not look like a frontal chest X-ray.</strong> The model knows '
    "nothing else, so what stands here would mean nothing.{note}</p>"
)
_OF_INFECTION = (
    "The model marks opacities that look like pneumonia on frontal chest X-rays. It does not tell their cause, and "
    "does not know other findings.",
    "It misses faint and small findings, and it also marks some that are not there: in healthy adults too.",
)
_OF_SHARE = (
    "The infected share is an area in a projection, not a volume of lung.",
    "Right and left are the patient's, where the picture is not mirrored.",
)


def render(prediction: Prediction, *, attribution: str = "", made: datetime | None = None) -> str:
    """A self-contained HTML page: picture, overlay, measures, thresholds, model, engine, limits.

    attribution is whom the image is from; made is when (now). Nothing is loaded from elsewhere and no script runs.
    """
    when = made or datetime.now(timezone.utc)
    size = f"{prediction.geometry.image_width} × {prediction.geometry.image_height} pixels"
    radiograph = prediction.radiograph
    name = prediction.image.encode("utf-8", "backslashreplace").decode()  # on a disk it may be no Unicode
    unfamiliar = prediction.familiarity is not None and not prediction.familiarity.familiar
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"SGMSNet: {name}"),
        image=escape(name),
        size=size,
        made=when.strftime("%Y-%m-%d %H:%M %Z").strip(),
        refusal=_REFUSAL.format(note=escape(f" {radiograph.header_note or ''}".rstrip())) if unfamiliar else "",
        plain=_uri(radiograph.display),
        drawn=_uri(overlay.draw(prediction)),
        alt=escape(f"The X-ray with outlines of {' and '.join(prediction.classes)}"),
        legend="".join(_key(prediction, index) for index in range(len(prediction.classes))),
        credit=escape(f"Image: {attribution}") if attribution else "",
        shares=_shares(prediction),
        areas=_areas(prediction),
        facts=_facts(prediction),
        model=_model(prediction),
        limits="".join(f"<li>{escape(sentence)}</li>" for sentence in _limits(prediction)),
    )


def _uri(pixels: np.ndarray) -> str:
    """Grey (H, W) or RGB (H, W, 3) as a JPEG of at most PICTURE_SIDE pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _key(prediction: Prediction, index: int) -> str:
    name = prediction.classes[index]
    red, green, blue = overlay.colour_of(name, index)
    return f'<i class="key" style="background: rgb({red}, {green}, {blue})"></i>{escape(name)}'


def _row(head: str, *cells: str) -> str:
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'


def _shares(prediction: Prediction) -> str:
    share, interval = prediction.measurements.infected_share, prediction.share_interval
    if not _tells_share(prediction):
        return ""
    sides = {"both": "Both", "right": "Right", "left": "Left"}
    rows = "".join(_row(sides[side], _percent(getattr(share, side)), _span(interval.get(side))) for side in sides)
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Lung", "Share", "95 % interval"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<section><h2>Infected share</h2>{table}</section>"


def _tells_share(prediction: Prediction) -> bool:
    return {LUNGS, INFECTION} <= set(prediction.classes)


def _areas(prediction: Prediction) -> str:
    measured = prediction.measurements
    rows = []
    for name in prediction.classes:
        area = "–" if measured.areas_mm2 is None else f"{measured.areas_mm2[name] / 100:.1f} cm²{_where(prediction)}"
        rows.append(_row(name, f"{prediction.thresholds[name]:g}", f"{measured.areas_px[name]:,}", area))
    if measured.infection_outside_lungs_px is not None:
        rows.append(_row("infection outside lungs", "", f"{measured.infection_outside_lungs_px:,}", ""))
    return "".join(rows)


def _facts(prediction: Prediction) -> str:
    radiograph, verdict = prediction.radiograph, prediction.familiarity
    spacing = radiograph.spacing_mm
    distance = "unknown" if spacing is None else f"{spacing[0]:.4g} × {spacing[1]:.4g} mm{_where(prediction)}"
    looks = "not judged by this model"
    if not radiograph.frontal:
        looks = "no, by its header"
    elif verdict is not None and verdict.score is not None:
        looks = f"{'yes' if verdict.familiar else 'no'} ({verdict.score:.2f})"
    return "".join(
        (
            _row("Format", f"{radiograph.format}, {radiograph.depth} bit"),
            _row("Pixel spacing", distance),
            _row("Looks like a frontal chest X-ray", looks),
            _row("Sides told apart", "yes" if prediction.measurements.sides_known else "no"),
        )
    )


def _model(prediction: Prediction) -> str:
    engine = prediction.engine
    timings = {stage: prediction.timings_ms.get(stage) for stage in STAGES}
    return "".join(
        (
            _row("Model", f"{engine.model} (SGMSNet {sgmsnet.__version__})"),
            _row("SHA-256", engine.model_sha256),
            _row("Engine", f"{engine.backend} {engine.runtime_version}"),
            _row("Precision, device", f"{engine.precision}, {engine.device}"),
            _row("Time", ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in timings.items() if ms is not None)),
        )
    )


def _limits(prediction: Prediction) -> tuple[str, ...]:
    radiograph = prediction.radiograph
    limits: tuple[str, ...] = _OF_INFECTION if INFECTION in prediction.classes else ()
    if _tells_share(prediction):
        limits += _OF_SHARE
    if radiograph.header_note is not None:
        limits += (radiograph.header_note,)
    if radiograph.spacing_mm is None:
        return (*limits, "The file states no pixel spacing, so areas are known in pixels alone.")
    if radiograph.spacing_at == "detector":
        return (
            *limits,
            "The file states a pixel spacing at the detector alone, where areas are larger than in the patient.",
        )
    return limits


def _where(prediction: Prediction) -> str:
    """What stands behind mm and cm²."""
    return " at the detector" if prediction.radiograph.spacing_at == "detector" else ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.{1 if share < 0.0995 else 0}f} %"


def _span(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"
