"""The page's events: which input goes to the desk and which output it fills. No layout, no drawing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sgmsnet.web import downloads
from sgmsnet.web.desk import AT_ONCE, Desk, Source

NO_FILE = "Choose an X-ray first."
NO_THRESHOLDS = "The thresholds could not be read."


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

    `source` stays on the server and remembers what is shown, so that another engine can run on it.
    """

    def segment(file: str | None, engine: str = "auto") -> dict[str, Any]:
        """Segment one chest X-ray; returns the picture, the maps and the record that the page shows."""
        return desk.segment(Source.upload(file), engine=engine) if file else desk.refuse(NO_FILE)

    def keep(file: str | None) -> tuple[Any, None]:
        # The drop zone is emptied so that the next file can be dropped without clearing first.
        return (Source.upload(file) if file else None), None

    def example(event: gr.EventData, engine: str) -> tuple[dict[str, Any], Source]:
        chosen = Source.example(str(event._data.get("name", "")))
        return desk.segment(chosen, engine=engine), chosen

    def again(kept: Source | None, engine: str) -> dict[str, Any] | Any:
        return gr.skip() if kept is None else desk.segment(kept, engine=engine)

    def at_thresholds(event: gr.EventData, kept: Source | None) -> dict[str, Any]:
        if kept is None:
            return desk.refuse(NO_FILE)
        try:
            engine = str(event._data["engine"])
            thresholds = {str(name): float(value) for name, value in event._data["thresholds"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):  # not sent by our own viewer
            return desk.refuse(NO_THRESHOLDS)
        kind = event._data.get("kind")
        if kind is None:
            answer = desk.again(kept, engine=engine, thresholds=thresholds)
        else:
            answer = downloads.make(desk, kept, kind=str(kind), engine=engine, thresholds=thresholds)
        return {**answer, "ticket": event._data.get("ticket")}

    model = {"concurrency_limit": AT_ONCE, "concurrency_id": "model", "show_progress_on": viewer}
    upload.upload(segment, [upload, engine], viewer, api_name="segment", **model).then(
        keep, upload, [source, upload], api_visibility="private", show_progress="hidden"
    )
    strip.click(example, engine, [viewer, source], api_visibility="private", **model)
    viewer.download(
        at_thresholds, source, exact, trigger_mode="multiple", api_visibility="private", show_progress="hidden"
    )
    engine.input(again, [source, engine], viewer, api_visibility="private", **model)
