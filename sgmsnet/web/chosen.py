"""What the browser does by itself around an event: gives the thresholds, shows that a turn is waited for."""

from __future__ import annotations

import json

CHOSEN = """(...given) => {
  const text = document.querySelector(".sv")?.dataset.thresholds;
  return [...given.slice(0, -1), text ? JSON.parse(text) : null];
}"""
"""An event's `js`: its last input becomes {class: threshold}, or null while nothing is shown."""

WAITING = '<p class="sg-note" role="status">Waiting for its turn…</p>'
STOPPED = "Stopped. Nothing was kept."
_STOPPED = f'<p class="sg-problem" role="alert">{STOPPED}</p>'
REFUSED = '<p class="sg-problem" role="alert">The server could not take this; please try again shortly.</p>'


def _update(**properties: bool) -> str:
    return json.dumps({"__type__": "update", **properties})


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
