"""What an archive job does when the engine fails: ask again, wait, and stop before an outage becomes many failures.

An image is at fault only if the engine runs and fails on it again; what an outage would have cost stays to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from engines.base import EngineError
from sgmsnet.archive import ArchiveError
from sgmsnet.archive.files import Item
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction

WAIT_S = 60.0
"""How long an engine that does not run is waited for."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
TRIES = 2
"""More for an image on which the engine fails while it runs another."""
IN_A_ROW = 20
"""Images that fail in this way, one after the other, are the engine's fault all the same."""

Outcome = Prediction | Failure
GO_ON = "the same command goes on from here"


def settled(
    pairs: Iterable[tuple[Item, Outcome]],
    pipeline: Pipeline,
    *,
    thresholds: Mapping[str, float],
    say: Callable[[str], None],
) -> Iterator[tuple[Item, Outcome]]:
    """Items and outcomes, of which those that the engine failed were tried again.

    Raises ArchiveError when the engine does not run for WAIT_S, or fails IN_A_ROW images and runs none between.
    """
    held: list[tuple[Item, Outcome]] = []
    for item, first in pairs:
        outcome = _again(item, first, pipeline, thresholds, say) if _by_engine(first) else first
        if isinstance(outcome, Failure) and outcome.by_engine:
            held.append((item, outcome))
            if len(held) == IN_A_ROW:
                raise ArchiveError(f"{IN_A_ROW} images in a row failed, the last with: {outcome.sentence}; {GO_ON}.")
            continue
        if isinstance(outcome, Prediction):
            yield from held
            held.clear()
        yield item, outcome
    yield from held


def _by_engine(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.by_engine


def _again(
    item: Item, outcome: Outcome, pipeline: Pipeline, thresholds: Mapping[str, float], say: Callable[[str], None]
) -> Outcome:
    for _ in range(TRIES):
        _wait_for(pipeline, say)
        try:
            return pipeline.predict(item.path, thresholds=thresholds)
        except EngineError as error:
            outcome = Failure(item.path.name, str(error), by_engine=True)
        except (UnreadableImageError, OSError) as error:  # it was there before
            return Failure(item.path.name, str(error))
    return outcome


def _wait_for(pipeline: Pipeline, say: Callable[[str], None]) -> None:
    """Return when the engine runs."""
    give_up = time.monotonic() + WAIT_S
    pause_s = PAUSE_S
    while True:
        try:
            pipeline.check()
            return
        except EngineError as error:
            if time.monotonic() + pause_s > give_up:
                raise ArchiveError(f"The engine does not run: {error}; {GO_ON}.") from error
            if pause_s == PAUSE_S:
                say(f"Waiting for the engine: {error}.")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
