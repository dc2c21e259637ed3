"""The page's events: which input goes to the desk and which output it fills. No layout, no drawing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from sgmsnet.web import downloads
from sgmsnet.web.chosen import ASKED, LOST, LOST_UPLOAD, NO_IMAGE, missing
from sgmsnet.web.desk import Desk, Source

NO_THRESHOLDS = "The thresholds could not be read."
OVERTAKEN = "Another X-ray has been asked for meanwhile; please try again when it is shown."


def connect(
    desk: Desk,
    *,
    upload: gr.File,
    strip: gr.HTML,
    engine: gr.Dropdown,
    viewer: gr.HTML,
    exact: gr.HTML,
    source: gr.State,
    chosen: gr.JSON,
) -> None:
    """Bind upload, examples and engine picker to the viewer, and its downloads at other thresholds to `exact`.

    `source` stays on the server and remembers what is shown, so that another engine can run on it. It changes together
    with the viewer: an upload that ends after a newer example must not leave one's name on the other's masks.
    `chosen` carries what the browser knows at the moment.
    """

    def show(chosen: Source, engine: str) -> tuple[dict[str, Any], Source]:
        shown = desk.segment(chosen, engine=engine)
        return shown, replace(chosen, run=shown["run"])

    def segment(file: str | None, engine: str = "auto") -> tuple[dict[str, Any], Source | None]:
        """Segment one chest X-ray; returns the picture, the maps and the record that the page shows."""
        return show(Source.upload(file), engine) if file else (desk.refuse(NO_IMAGE), None)

    def choose(kept: Source | None, engine: str, asked: Any) -> tuple[Any, Any]:
        """An example, or what is shown by another engine; `asked` is what ASKED gave."""
        told = asked if isinstance(asked, dict) else {}
        if example := told.get("example"):
            return show(Source.example(str(example)), engine)
        if example is None and kept is not None:
            return show(kept, engine)
        if example is None and told.get("shown"):
            return desk.refuse(missing(shown=True)), None
        return gr.skip(), gr.skip()

    def at_thresholds(event: gr.EventData, kept: Source | None) -> dict[str, Any]:
        answer = download(event, kept)
        return {**answer, "ticket": event._data.get("ticket")}

    def download(event: gr.EventData, kept: Source | None) -> dict[str, Any]:
        desk.metrics.action("download")
        if kept is None:
            return desk.refuse(missing(shown="run" in event._data))
        if event._data.get("run") != kept.run:
            return desk.refuse(OVERTAKEN)
        try:
            engine = str(event._data["engine"])
            thresholds = {str(name): float(value) for name, value in event._data["thresholds"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):  # not sent by our own viewer
            return desk.refuse(NO_THRESHOLDS)
        kind = event._data.get("kind")
        if kind is None:
            return desk.again(kept, engine=engine, thresholds=thresholds)
        return downloads.make(desk, kept, kind=str(kind), engine=engine, thresholds=thresholds)

    model = {"concurrency_limit": desk.at_once, "concurrency_id": "model", "show_progress_on": viewer}
    shared: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # The drop zone is emptied, in the browser, so that the next file can be dropped without clearing first; also after
    # a request that was refused, which Gradio calls no end.
    sent = upload.upload(segment, [upload, engine], [viewer, source], api_name="segment", **model)
    sent.then(None, None, upload, js="() => null", **shared)
    sent.failure(None, None, [viewer, upload], js=LOST_UPLOAD, **shared)
    # What is chosen while one runs is run afterwards: Gradio repeats the first event then, but asks for inputs anew,
    # so the example stands in one. It is one event for both, or an engine would run on what was shown before.
    gr.on(
        [strip.click, engine.input],
        choose,
        [source, engine, chosen],
        [viewer, source],
        js=ASKED,
        trigger_mode="always_last",
        api_visibility="private",
        **model,
    ).failure(None, None, viewer, js=LOST, **shared)
    # The browser waits half a minute for a download: with one lane for all visitors it would give up in the queue.
    # The lane is not that of uploads, which stand behind no download; the desk lets no more of both run than it should.
    lane = {"concurrency_limit": desk.at_once, "concurrency_id": "download"}
    viewer.download(at_thresholds, source, exact, trigger_mode="multiple", **lane, **shared)
