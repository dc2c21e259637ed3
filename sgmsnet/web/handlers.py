"""The page's events: which input goes to the desk and which output it fills. No layout, no drawing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from sgmsnet.web import downloads
from sgmsnet.web.desk import Desk, Source

NO_FILE = "Choose an X-ray first."
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
) -> None:
    """Bind upload, examples and engine picker to the viewer, and its downloads at other thresholds to `exact`.

    `source` stays on the server and remembers what is shown, so that another engine can run on it. It changes together
    with the viewer: an upload that ends after a newer example must not leave one's name on the other's masks.
    """

    def show(chosen: Source, engine: str) -> tuple[dict[str, Any], Source]:
        shown = desk.segment(chosen, engine=engine)
        return shown, replace(chosen, run=shown["run"])

    def segment(file: str | None, engine: str = "auto") -> tuple[dict[str, Any], Source | None]:
        """Segment one chest X-ray; returns the picture, the maps and the record that the page shows."""
        return show(Source.upload(file), engine) if file else (desk.refuse(NO_FILE), None)

    def example(event: gr.EventData, engine: str) -> tuple[dict[str, Any], Source]:
        return show(Source.example(str(event._data.get("name", ""))), engine)

    def again(kept: Source | None, engine: str) -> tuple[Any, Any]:
        return (gr.skip(), gr.skip()) if kept is None else show(kept, engine)

    def at_thresholds(event: gr.EventData, kept: Source | None) -> dict[str, Any]:
        answer = download(event, kept)
        return {**answer, "ticket": event._data.get("ticket")}

    def download(event: gr.EventData, kept: Source | None) -> dict[str, Any]:
        desk.metrics.action("download")
        if kept is None:
            return desk.refuse(NO_FILE)
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
    # The drop zone is emptied, in the browser, so that the next file can be dropped without clearing first.
    upload.upload(segment, [upload, engine], [viewer, source], api_name="segment", **model).then(
        None, None, upload, js="() => null", api_visibility="private", show_progress="hidden"
    )
    strip.click(example, engine, [viewer, source], api_visibility="private", **model)
    viewer.download(
        at_thresholds, source, exact, trigger_mode="multiple", api_visibility="private", show_progress="hidden"
    )
    engine.input(again, [source, engine], [viewer, source], api_visibility="private", **model)
