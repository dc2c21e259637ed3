"""The panel "Compare engines": a button and the answer, which stays when the visitor goes on to another image."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from html import escape

import gradio as gr

from sgmsnet.imaging import UnreadableImageError
from sgmsnet.web import compare, compare_chart
from sgmsnet.web.desk import Desk, Source

NO_IMAGE = "Choose an X-ray first."
_HINT = """<p class="sg-note">Times every engine of this machine on the X-ray shown, in turn, and compares their masks.
Opening all of them can take some seconds.</p>"""

log = logging.getLogger(__name__)


def build(desk: Desk, *, source: gr.State) -> None:
    """Make the panel; `source` holds the image that is shown."""
    with gr.Accordion("Compare engines", open=False, elem_id="sg-compare", elem_classes="sg-panel"):
        start = gr.Button("Run all engines", elem_classes="sg-action")
        answer = gr.HTML(_HINT, apply_default_css=False)

    def run(kept: Source | None) -> Iterator[str]:
        if kept is None:
            yield problem(NO_IMAGE)
            return
        try:
            for known in compare.compare(desk, kept):
                yield compare_chart.render(known, desk.engines)
        except UnreadableImageError as error:
            yield problem(str(error))
        except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
            log.exception("comparing engines failed")
            yield problem("The engines could not be compared; the server's log says why.")

    # One comparison at a time on this server: two would time each other.
    start.click(run, source, answer, concurrency_limit=1, show_progress="hidden", api_visibility="private")


def problem(sentence: str) -> str:
    """One sentence where the answer would be."""
    return f'<p class="sg-problem" role="alert">{escape(sentence)}</p>'
