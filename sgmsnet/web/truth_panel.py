"""The panel "Compare with your own mask": an upload, a class, and how well the shown result fits. No arithmetic."""

from __future__ import annotations

import logging
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from engines.base import EngineError, EngineUnavailable
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.web import payload, truth
from sgmsnet.web.chosen import CHOSEN, missing
from sgmsnet.web.compare_panel import problem
from sgmsnet.web.desk import Desk, Source

_HINT = """<p class="sg-note">A mask of the X-ray shown, PNG or TIFF, of the same size or shape; what is neither
transparent nor 0 counts, and strokes of one colour on a transparent ground, black as well. You get Dice, IoU, HD95 and
a picture of the differences, at the thresholds that are set.</p>"""

log = logging.getLogger(__name__)


def build(desk: Desk, *, source: gr.State, engine: gr.Dropdown, chosen: gr.JSON) -> None:
    """Make the panel; `source` holds the image that is shown, `chosen` the thresholds that the viewer has now."""
    classes = desk.pipeline(desk.first).info.classes
    with gr.Accordion("Compare with your own mask", open=False, elem_id="sg-truth", elem_classes="sg-panel"):
        which = gr.Radio(
            [(name.capitalize(), name) for name in classes],
            value=classes[-1],
            label="The mask shows",
            elem_id="sg-class",
        )
        file = gr.File(label="Mask", type="filepath", show_label=False, height=104, elem_classes="sg-drop")
        again = gr.Button("Measure again", elem_classes="sg-action")
        answer = gr.HTML(_HINT, apply_default_css=False)

    def measure(
        mask: str | None, name: str, kept: Source | None, engine: str, thresholds: dict[str, float] | None
    ) -> str:
        if kept is None:
            return problem(missing(shown=thresholds is not None))
        if mask is None:
            return problem("Choose a mask first.")
        desk.metrics.action("truth")
        try:
            return render(_judge(desk, Path(mask), name, kept, engine, thresholds))
        except (UnreadableImageError, EngineUnavailable, EngineError, ValueError) as error:
            return problem(str(error))
        except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
            log.exception("comparing with a mask failed")
            return problem("The mask could not be compared; the server's log says why.")

    def measure_if_any(mask: str | None, *rest: Any) -> str:
        return measure(mask, *rest) if mask else _HINT

    inputs = [file, which, source, engine, chosen]
    # As many at once as images, in a lane of their own: by default each would wait for the one before, whoever's it is.
    lane = {"concurrency_limit": desk.at_once, "concurrency_id": "truth"}
    shared: dict[str, Any] = {"show_progress_on": answer, "api_visibility": "private", "js": CHOSEN, **lane}
    # One event for both: a class chosen while another is measured is measured after it, and not left out.
    triggers = [file.upload, which.input]
    gr.on(triggers, measure_if_any, inputs, answer, trigger_mode="always_last", **shared)
    again.click(measure, inputs, answer, **shared)


def render(found: truth.Agreement) -> str:
    """The figures and the picture as a fragment of HTML."""
    figures = (
        ("Dice", f"{found.dice:.3f}"),
        ("IoU", f"{found.iou:.3f}"),
        ("HD95 at the detector" if found.at_detector else "HD95", f"{found.hd95:.1f} {found.unit}"),
    )
    terms = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    key = "".join(
        f'<span><i style="background:rgb{colour}"></i>{name} <small>{count:,} px</small></span>'
        for name, colour, count in (
            ("Found", truth.FOUND, found.found_px),
            ("Missed", truth.MISSED, found.missed_px),
            ("Extra", truth.EXTRA, found.extra_px),
        )
    )
    image = escape(found.image)
    said = f"{image}: {found.missed_px} pixels of {escape(found.name)} missed, {found.extra_px} too many"
    uri = payload.jpeg_uri(Image.fromarray(found.picture))
    remark = problem(found.remark) if found.remark else ""
    caption = f"{image}, {escape(found.name)} at threshold {found.threshold:.3g}"
    return (
        f'<div class="sg-truth"><p class="sg-caption">{caption}</p>'
        f'{remark}<dl class="sg-figures">{terms}</dl><figure><img src="{uri}" alt="{said}">'
        f'<figcaption class="sg-key">{key}</figcaption></figure></div>'
    )


def _judge(
    desk: Desk, mask: Path, name: str, kept: Source, engine: str, thresholds: dict[str, float] | None
) -> truth.Agreement:
    path, _ = desk.find(kept)
    prediction = desk.predict(path, name=kept.name, engine=engine, thresholds=thresholds)
    geometry = prediction.geometry
    drawn = truth.read_mask(mask, height=geometry.image_height, width=geometry.image_width)
    return truth.judge(prediction, drawn, name=name)
