"""Builds the Gradio page from the desk and the files beside this one. Events are in handlers.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sgmsnet.measurements import INFECTION
from sgmsnet.web import about, batch_panel, compare_panel, doors, handlers, truth_panel
from sgmsnet.web.desk import Availability, Desk, Example

TITLE = "SGMSNet: chest X-ray segmentation"
UPLOADS_CHECKED_S = 600
WAITING_AT_MOST = 32

_HERE = Path(__file__).resolve().parent
_FONT = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Cascadia Mono", "Menlo", "monospace")
# One scope, in this order: each uses the ones before it, and the last one starts the viewer.
_SCRIPTS = ("pixels.js", "panel.js", "viewer.js", "canvas.js", "controls.js")

_HEADER = """
<div class="sg-head">
  <div><h1>SGMSNet</h1><p>{classes} in chest X-rays</p></div>
  <p class="sg-banner" role="note"><strong>Research demonstration. Not a medical device.</strong>
  Do not upload images that identify a patient.</p>
</div>"""

_HINT = """
<p class="sg-hint">Frontal view. PNG, JPEG, TIFF or DICOM, 8 to 16 bit, up to 64 MB. Or paste a picture.
Uploads are deleted after about {kept}; names in DICOM files are not read.</p>
<p class="sg-problem" id="sg-wait" role="alert" hidden></p>"""

_LIMITS = """It marks opacities that look like pneumonia on frontal chest X-rays. It does not diagnose, and it misses
faint and small findings."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the page tells about its server: the address, how long uploads are kept, which weights it shows."""

    address: str = "http://127.0.0.1:7860"
    kept_min: float = 60.0
    weights: Path | None = None


def _listed(classes: Sequence[str]) -> str:
    """ "Lungs and infection"; names are plain words (ModelConfig)."""
    *first, last = (name.replace("_", " ") for name in classes)
    said = f"{', '.join(first)} and {last}" if first else last
    return said[:1].upper() + said[1:]


def build(desk: Desk, facts: Facts | None = None, *, public: Callable[[], str | None] = lambda: None) -> gr.Blocks:
    """The whole page, ready for launch(**launch_options()). `public` gives what is to be said of a public link."""
    facts = facts or Facts()
    cached = (UPLOADS_CHECKED_S, round(facts.kept_min * 60))
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=cached) as page:
        classes = desk.pipeline(desk.first).info.classes
        gr.HTML(_HEADER.format(classes=_listed(classes)))
        link = gr.HTML(None, visible=False, elem_id="sg-link")
        with gr.Row(elem_id="sg-body"):
            with gr.Column(elem_id="sg-rail"):
                upload = gr.File(
                    label="Chest X-ray", type="filepath", show_label=False, height=132, elem_id="sg-upload"
                )
                gr.HTML(_HINT.format(kept=about.kept(facts.kept_min)))
                strip = _strip(list(desk.examples.values()))
            with gr.Column(elem_id="sg-result"):
                viewer = _viewer()
                tools = gr.Column(elem_id="sg-tools")
            with gr.Column(elem_id="sg-more"):
                engine = gr.Dropdown(
                    engine_choices(desk.engines), value=desk.first, label="Engine", elem_id="sg-engine"
                )
                with gr.Accordion("Engines on this machine", open=False):
                    gr.HTML(reasons(desk))
        source = gr.State(None)
        exact = gr.HTML(None, js_on_load=_read("exact.js"), visible="hidden")
        chosen = gr.JSON(visible="hidden")
        with tools:
            compare_panel.build(desk, source=source, chosen=chosen)
            truth_panel.build(desk, source=source, engine=engine, chosen=chosen)
            batch_panel.build(desk, engine=engine)
            calls = _about(facts, limits=_LIMITS if INFECTION in classes else "")
        handlers.connect(
            desk,
            upload=upload,
            strip=strip,
            engine=engine,
            viewer=viewer,
            exact=exact,
            source=source,
            chosen=chosen,
        )

        def arrive(request: gr.Request) -> tuple[Any, str]:
            """What is known only once somebody asks: the public link, and by which address the page was reached."""
            here = about.origin(dict(request.headers), request.url.scheme) or facts.address
            return gr.update(value=_link(public()), visible=public() is not None), about.programs(here)

        page.load(arrive, None, [link, calls], api_visibility="private", show_progress="hidden", **doors.LIGHT)
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
        "favicon_path": _HERE / "favicon.svg",
        "max_file_size": doors.BATCH_BYTES,  # for a zip; a larger image than may be is refused by its reader
    }


def engine_choices(engines: list[Availability]) -> list[tuple[str, str]]:
    """(shown, name) for the picker: auto and what runs here."""
    return [("Automatic", "auto"), *((found.name, found.name) for found in engines if found.available)]


def reasons(desk: Desk) -> str:
    """HTML list of all engines: version and notes, or the reason why one does not run here."""
    rows = (
        f"<dt>{escape(found.name)}</dt><dd>"
        + escape("; ".join((f"Available, version {found.version}", *desk.notes(found.name))))
        + "</dd>"
        if found.available
        else f"<dt>{escape(found.name)}</dt><dd>{escape(found.reason)}</dd>"
        for found in desk.standing()
    )
    return f'<dl class="sg-reasons">{"".join(rows)}</dl>'


def numbered(captions: Sequence[str]) -> list[str]:
    """Captions that can be told apart: those that occur more than once get a number."""
    often, met = Counter(captions), Counter[str]()
    told = []
    for caption in captions:
        met[caption] += 1
        told.append(f"{caption} ({met[caption]})" if often[caption] > 1 else caption)
    return told


def _about(facts: Facts, *, limits: str) -> gr.Markdown:
    """The panel with model card, citation and calls; returns the part that names the page's address."""
    with gr.Accordion("About: model, data, limits, citation", open=False, elem_id="sg-about", elem_classes="sg-panel"):
        (_, opening), *sections = about.card(facts.weights)
        gr.Markdown(f"{limits}\n\n{opening}", elem_classes="sg-text")
        for heading, text in (*sections, ("Cite", about.citation())):
            with gr.Accordion(heading, open=False):
                gr.Markdown(text, elem_classes="sg-text")
        with gr.Accordion("Call it from a program", open=False):
            return gr.Markdown(about.programs(facts.address), elem_classes="sg-text")


def _link(sentence: str | None) -> str:
    """A sentence as HTML, with an address in it to click on."""
    told = re.sub(r"https://[^\s<]+", r'<a href="\g<0>">\g<0></a>', escape(sentence or "", quote=False))
    return f'<p class="sg-note" role="status">{told}</p>'


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
        f"<span>{escape(caption)}</span></button></li>"
        for one, caption in zip(examples, numbered([one.caption for one in examples]), strict=True)
    )
    content = f'<div class="sg-strip"><h2>Examples</h2><ul>{tiles}</ul></div>' if examples else ""
    return gr.HTML(content, js_on_load=_read("strip.js"), apply_default_css=False)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
