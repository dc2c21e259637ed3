"""The panel "Many X-rays at once": files in, a table that fills, one zip out. The work is in batch.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from sgmsnet.web import batch, batch_inputs
from sgmsnet.web.batch import State
from sgmsnet.web.chosen import HIDE
from sgmsnet.web.compare_panel import in_turn, problem
from sgmsnet.web.desk import Desk

SHOWN_EVERY_S = 0.3
_WORDS = {"waiting": "Waiting", "done": "Done", "failed": "Failed"}
_HINT = f"""<p class="sg-note">Up to {batch_inputs.MAX_FILES} files or a zip of them, at most
{batch_inputs.MAX_TOTAL_BYTES // 2**20} MB unpacked. You get one zip with masks, overlays, a table (CSV) and records
(JSON Lines), at the model's thresholds. A bad file does not stop the others.</p>"""


def build(desk: Desk, *, engine: gr.Dropdown) -> None:
    """Make the panel; `engine` is the page's picker."""
    with gr.Accordion("Many X-rays at once", open=False, elem_id="sg-batch", elem_classes="sg-panel"):
        files = gr.File(
            label="X-rays or a zip", file_count="multiple", type="filepath", show_label=False, height=120,
            elem_id="sg-batch-files",
        )  # fmt: skip
        with gr.Row():
            start = gr.Button("Run batch", elem_classes="sg-action")
            stop = gr.Button("Stop", visible=False, elem_classes="sg-action")
        status = gr.HTML(_HINT, apply_default_css=False)
        results = gr.DownloadButton("Download results (zip)", visible=False, elem_id="sg-batch-results")

    def run(chosen: list[str] | None, engine: str) -> Iterator[tuple[Any, Any]]:
        uploads = [Path(path) for path in chosen or ()]
        shown_at = 0.0
        for state in batch.run(desk, uploads, engine=engine, folder=Path(get_upload_folder())):
            last = state.archive is not None or state.problem is not None
            if last or time.monotonic() - shown_at >= SHOWN_EVERY_S:
                shown_at = time.monotonic()
                # The archive lies where Gradio hands files out from and the janitor sweeps, so nothing copies it.
                yield render(state), _offer(state)

    # The last batch's results are not those of the next one, which may have to wait for its turn.
    start.click(None, None, results, js=HIDE, api_visibility="private", show_progress="hidden")
    in_turn(run, [files, engine], start=start, stop=stop, answer=status, more=[results])


def _offer(state: State) -> Any:
    return gr.update(value=str(state.archive) if state.archive else None, visible=state.archive is not None)


def render(state: State) -> str:
    """The table of files, with a bar above while it is filled, as a fragment of HTML."""
    if state.problem is not None:
        return problem(state.problem)
    failed = sum(row.status == "failed" for row in state.rows)
    said = f"{state.through} of {len(state.rows)}" + (f", {failed} failed" if failed else "")
    lines = "".join(
        f'<tr data-status="{row.status}"><th scope="row">{escape(row.name)}</th><td>{_WORDS[row.status]}</td>'
        f"<td>{escape(row.note)}</td></tr>"
        for row in state.rows
    )
    return (
        f'<div class="sg-batch"><p role="status">{said}</p>'
        f'<progress max="{len(state.rows)}" value="{state.through}" aria-label="Files that are through"></progress>'
        '<div class="sg-batch-rows" tabindex="0"><table><thead><tr><th scope="col">File</th><th scope="col">Status</th>'
        f'<th scope="col">Note</th></tr></thead><tbody>{lines}</tbody></table></div></div>'
    )
