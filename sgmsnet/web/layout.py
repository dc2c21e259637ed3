"""Builds the Gradio page from the desk and the files beside this one. Events are in handlers.py."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sgmsnet.web import batch_panel, compare_panel, doors, handlers, truth_panel
from sgmsnet.web.desk import Availability, Desk, Example

TITLE = "SGMSNet: chest X-ray segmentation"
UPLOADS_CHECKED_S, UPLOADS_KEPT_S = 600, 3600
WAITING_AT_MOST = 32

_HERE = Path(__file__).resolve().parent
_FONT = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Cascadia Mono", "Menlo", "monospace")
# One scope, in this order: each uses the ones before it, and the last one starts the viewer.
_SCRIPTS = ("pixels.js", "panel.js", "viewer.js", "canvas.js", "controls.js")

_HEADER = """
<div class="sg-head">
  <div><h1>SGMSNet</h1><p>Lungs and infection in chest X-rays</p></div>
  <p class="sg-banner" role="note"><strong>Research demonstration. Not a medical device.</strong>
  Do not upload images that identify a patient.</p>
</div>"""

_HINT = """
<p class="sg-hint">Frontal view. PNG, JPEG, TIFF or DICOM, 8 to 16 bit, up to 64 MB. Or paste a picture.
Uploads are deleted after about an hour; names in DICOM files are not read.</p>"""

_ABOUT = """
<div class="sg-about">
<p>A ResNet-34 encoder with a learned memory, gated skip connections and spatial attention, after the SGMSNet paper
(IEEE CME 2025, doi 10.1109/CME67420.2025.11239364).</p>
<p>It marks opacities that look like pneumonia on frontal chest X-rays. It does not diagnose, and it misses faint and
small findings.</p>
<p>From a program: <a href="v1/" target="_blank" rel="noopener">REST at <code>/v1/segment</code></a>, or
<code>gradio_client</code>, endpoint <code>/segment</code>.</p>
</div>"""


def build(desk: Desk) -> gr.Blocks:
    """The whole page, ready for launch(**launch_options())."""
    with gr.Blocks(
        title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(UPLOADS_CHECKED_S, UPLOADS_KEPT_S)
    ) as page:
        gr.HTML(_HEADER)
        with gr.Row(elem_id="sg-body"):
            with gr.Column(elem_id="sg-rail"):
                upload = gr.File(
                    label="Chest X-ray", type="filepath", show_label=False, height=132, elem_id="sg-upload"
                )
                gr.HTML(_HINT)
                strip = _strip(list(desk.examples.values()))
            with gr.Column(elem_id="sg-result"):
                viewer = _viewer()
                tools = gr.Column(elem_id="sg-tools")
            with gr.Column(elem_id="sg-more"):
                engine = gr.Dropdown(
                    engine_choices(desk.engines), value=desk.first, label="Engine", elem_id="sg-engine"
                )
                with gr.Accordion("Engines on this machine", open=False):
                    gr.HTML(reasons(desk.engines))
                with gr.Accordion("About and limits", open=False):
                    gr.HTML(_ABOUT)
        source = gr.State(None)
        exact = gr.HTML(None, js_on_load=_read("exact.js"), visible="hidden")
        chosen = gr.JSON(visible="hidden")
        with tools:
            compare_panel.build(desk, source=source)
            truth_panel.build(desk, source=source, engine=engine, chosen=chosen)
            batch_panel.build(desk, engine=engine)
        handlers.connect(
            desk,
            upload=upload,
            strip=strip,
            engine=engine,
            viewer=viewer,
            exact=exact,
            source=source,
        )
    return page.queue(max_size=WAITING_AT_MOST)


def launch_options() -> dict[str, Any]:
    """What Blocks.launch needs beside the address: the look, and nothing that leaves or stays on this machine."""
    theme = gr.themes.Base(font=_FONT, font_mono=_MONO, primary_hue="cyan", neutral_hue="slate", radius_size="lg")
    return {
        "theme": theme,
        "css": _read("page.css"),
        "run_history": False,
        "ssr_mode": False,
        "footer_links": [],
        "max_file_size": doors.BATCH_BYTES,  # for a zip; a larger image than may be is refused by its reader
    }


def engine_choices(engines: list[Availability]) -> list[tuple[str, str]]:
    """(shown, name) for the picker: auto and what runs here."""
    return [("Automatic", "auto"), *((found.name, found.name) for found in engines if found.available)]


def reasons(engines: list[Availability]) -> str:
    """HTML list of all engines with the version or the reason why one does not run here."""
    rows = (
        f"<dt>{escape(found.name)}</dt><dd>"
        + escape(f"Available, version {found.version}" if found.available else found.reason)
        + "</dd>"
        for found in engines
    )
    return f'<dl class="sg-reasons">{"".join(rows)}</dl>'


def _viewer() -> gr.HTML:
    return gr.HTML(
        None,
        html_template=_read("viewer.html"),
        css_template=_read("viewer.css"),
        js_on_load="\n".join(_read(name) for name in _SCRIPTS),
        apply_default_css=False,
        elem_id="sg-viewer",
    )


def _strip(examples: list[Example]) -> gr.HTML:
    tiles = "".join(
        f'<li><button type="button" class="sg-example" data-name="{escape(one.name)}" aria-current="false"'
        f' title="{escape(one.attribution)}"><img src="{one.thumbnail}" alt="Example X-ray" width="144" height="144">'
        f"<span>{escape(one.caption)}</span></button></li>"
        for one in examples
    )
    content = f'<div class="sg-strip"><h2>Examples</h2><ul>{tiles}</ul></div>' if examples else ""
    return gr.HTML(content, js_on_load=_read("strip.js"), apply_default_css=False)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
