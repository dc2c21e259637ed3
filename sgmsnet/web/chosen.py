"""What the browser does by itself around an event: gives what it knows, tells who waits and who was refused."""

from __future__ import annotations

import json

CHOSEN = """(...given) => {
  const text = document.querySelector(".sv")?.dataset.thresholds;
  return [...given.slice(0, -1), text ? JSON.parse(text) : null];
}"""
"""An event's `js`: its last input becomes {class: threshold}, or null while nothing is shown."""

ASKED = """(...given) => {
  const told = document.querySelector(".sg-strip")?.dataset ?? {};
  let example = told.asked ?? null;
  delete told.asked;
  if (example === null && !document.querySelector("#sg-upload input[type=file]")) {
    document.body.dataset.sgLater = ""; // strip.js asks again once the file is through
    example = "";
  }
  const shown = Boolean(document.querySelector(".sv")?.dataset.thresholds);
  return [...given.slice(0, -1), { example, shown }];
}"""
"""An event's `js`: its last input becomes {example, shown}: the name of the example that was chosen since the last
time, null for none and "" where nothing is to be done now, since a file is on its way; and whether the viewer shows an
image."""

NO_IMAGE = "Choose an X-ray first."
NO_LONGER_HELD = "This X-ray is no longer held for you; please send it again."
"""Gradio keeps what is shown for a limited number of visitors."""

WAITING = '<p class="sg-note" role="status">Waiting for its turn…</p>'
STOPPED = "Stopped. Nothing was kept."
_STOPPED = f'<p class="sg-problem" role="alert">{STOPPED}</p>'
_NOT_TAKEN = "The server could not take this; please try again shortly."
REFUSED = f'<p class="sg-problem" role="alert">{_NOT_TAKEN}</p>'


def _update(**properties: bool) -> str:
    return json.dumps({"__type__": "update", **properties})


HIDE = f"() => [{_update(visible=False)}]"
"""A `js` that takes its one output out of sight."""
BEGIN = f"() => [{json.dumps(WAITING)}, {_update(interactive=False)}, {_update(visible=True, interactive=True)}]"
"""A `js` whose outputs are answer, start and stop: at once, while the event itself may stand in the queue."""
_OVER = f"{_update(interactive=True)}, {_update(visible=False)}"
END = f"() => [{_OVER}]"
"""Its counterpart for start and stop, when the event has ended."""
STOP = "() => { window.sgStoppedAt = Date.now(); return []; }"
"""Of the button that ends it, so that FAIL knows."""
FAIL = f"""() => {{
  const stopped = Date.now() - (window.sgStoppedAt ?? 0) < 30000;
  return [stopped ? {json.dumps(_STOPPED)} : {json.dumps(REFUSED)}, {_OVER}];
}}"""
"""For all three, where the queue was full or the event got lost: Gradio calls that no end.

An event that was stopped while it waited fails too, before or after the stop is answered.
"""

LOST = f"""() => {{
  delete document.body.dataset.sgLater;
  delete document.querySelector(".sg-strip")?.dataset.asked;
  return [{{ run: String(Date.now()), error: {json.dumps(_NOT_TAKEN)} }}];
}}"""
"""The same for the viewer, whose picture stays away when the request for it was refused; and what was chosen meanwhile
is forgotten, as it would come up after the next thing that is asked for."""
LOST_UPLOAD = f"() => [...({LOST})(), null]"
"""For the viewer and the drop zone, which is emptied so that it takes the next file."""


def missing(*, shown: bool) -> str:
    """What to say where no image is kept for a visitor, who may see one nevertheless."""
    return NO_LONGER_HELD if shown else NO_IMAGE
