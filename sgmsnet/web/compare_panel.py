"""The panel "Compare engines": start, stop and the answer, which stays when the visitor goes on to another image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from sgmsnet.imaging import UnreadableImageError
from sgmsnet.web import compare, compare_chart
from sgmsnet.web.chosen import BEGIN, CHOSEN, END, FAIL, STOP, STOPPED, missing
from sgmsnet.web.desk import Desk, Source
from sgmsnet.web.doors import LIGHT

_HINT = """<p class="sg-note">Times every engine of this machine on the X-ray shown, in turn, and compares their masks.
Opening all of them can take some seconds.</p>"""

log = logging.getLogger(__name__)


def build(desk: Desk, *, source: gr.State, chosen: gr.JSON) -> None:
    """Make the panel; `source` holds the image that is shown, `chosen` tells whether there is one."""
    with gr.Accordion("Compare engines", open=False, elem_id="sg-compare", elem_classes="sg-panel"):
        with gr.Row():
            start = gr.Button("Run all engines", elem_classes="sg-action")
            stop = gr.Button("Stop", visible=False, elem_classes="sg-action")
        answer = gr.HTML(_HINT, apply_default_css=False)

    def run(kept: Source | None, thresholds: dict[str, float] | None) -> Iterator[str]:
        if kept is None:
            yield problem(missing(shown=thresholds is not None))
            return
        desk.metrics.action("compare")
        try:
            for known in compare.compare(desk, kept):
                yield compare_chart.render(known, desk.engines)
        except UnreadableImageError as error:
            yield problem(str(error))
        except Exception:  # the outermost edge: the visitor gets a sentence, the log the rest
            log.exception("comparing engines failed")
            yield problem("The engines could not be compared; the server's log says why.")

    # One comparison at a time on this server: two would time each other.
    in_turn(run, [source, chosen], js=CHOSEN, start=start, stop=stop, answer=answer)


def in_turn(
    run: Callable[..., Iterator[Any]],
    inputs: Any,
    *,
    start: gr.Button,
    stop: gr.Button,
    answer: gr.HTML,
    more: Any = (),
    js: str | None = None,
) -> None:
    """Let `start` run a generator that fills `answer` and `more`, one visitor at a time, and `stop` end it.

    Who has to wait is told so at once, by the browser; `start` comes back however it ends.
    """
    shared: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    start.click(None, None, [answer, start, stop], js=BEGIN, **shared)
    running = start.click(run, inputs, [answer, *more], concurrency_limit=1, js=js, **shared)
    running.failure(None, None, [answer, start, stop], js=FAIL, **shared)
    running.then(None, None, [start, stop], js=END, **shared)
    stop.click(lambda: problem(STOPPED), None, answer, cancels=running, js=STOP, **shared, **LIGHT).then(
        None, None, [start, stop], js=END, **shared
    )


def problem(sentence: str) -> str:
    """One sentence where the answer would be."""
    return f'<p class="sg-problem" role="alert">{escape(sentence)}</p>'
