"""Runs every engine of this machine on one image, in turn, and says how time and masks differ. No Gradio, no HTML."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engines.base import EngineError, EngineUnavailable
from sgmsnet import imaging
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from sgmsnet.training.metrics import Counts
from sgmsnet.web.desk import Desk, Source

REFERENCE = "pytorch"
"""The engine that the others are compared with."""
ROUNDS = 20
FEWEST_ROUNDS, PATIENCE_S = 5, 20.0
"""A slow machine stops after fewer rounds once this much time has gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One engine's runs of the network, and the IoU by class of its masks with the reference's, if there is one."""

    engine: str
    precision: str
    device: str
    times_ms: tuple[float, ...] = ()
    agreement: Mapping[str, float] | None = None

    @property
    def p50_ms(self) -> float:
        """Median; ValueError before the first round."""
        return self._percentile(50)

    @property
    def p95_ms(self) -> float:
        """95th percentile; ValueError before the first round."""
        return self._percentile(95)

    def _percentile(self, share: int) -> float:
        if not self.times_ms:
            raise ValueError("No round has been timed yet.")
        return float(np.percentile(self.times_ms, share))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is known so far: `doing` says what goes on, in a few words, and is None in the end."""

    image: str
    doing: str | None
    rounds: int
    done: int = 0
    timed: tuple[Timed, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    """Engines that could not be opened or run, with one sentence each."""

    def speedup(self, one: Timed) -> float | None:
        """How many times as fast as the reference, by medians; None without a reference."""
        for other in self.timed:
            if other.engine == REFERENCE and other.times_ms and one.times_ms:
                return other.p50_ms / one.p50_ms
        return None


@dataclass(frozen=True)
class _Racer:
    timed: Timed
    pipeline: Pipeline
    batch: np.ndarray
    """uint8 (1, 1, h, w): the image as this engine takes it."""


def compare(
    desk: Desk, source: Source, *, rounds: int = ROUNDS, patience_s: float = PATIENCE_S
) -> Iterator[Comparison]:
    """Yield what is known after each step; raises UnreadableImageError for an image that is not there or not readable.

    Each engine runs the network once a round, in an order that turns from round to round, so that a busy or a hot
    moment strikes all alike. The first runs of each engine are left out. Each run waits for its turn with the other
    visitors' images.
    """
    path, _ = desk.find(source)
    state = Comparison(image=source.name, doing="Reading the image", rounds=rounds)
    predictions: dict[str, Prediction] = {}
    failed: dict[str, str] = {}
    for found in desk.engines:
        if found.available:
            yield replace(state, doing=f"Opening {found.name}", failed=dict(failed))
            try:
                predictions[found.name] = _predict(desk, found.name, path, source.name)
            except imaging.UnreadableImageError:
                raise  # the image's fault, not the engine's
            except Exception as error:  # noqa: BLE001 - logged by _sentence; the other engines go on
                failed[found.name] = _sentence(error, found.name)
    racers = _line_up(desk, predictions)
    yield from _race(desk, replace(state, failed=failed), racers, patience_s)


def _predict(desk: Desk, engine: str, path: Path, name: str) -> Prediction:
    """By this very engine: Desk.predict would let another one answer for the page's own."""
    pipeline = desk.pipeline(engine)
    with desk.turn():
        return pipeline.predict(path, name=name)


def _line_up(desk: Desk, predictions: Mapping[str, Prediction]) -> list[_Racer]:
    reference = predictions.get(REFERENCE)
    racers = []
    for name, prediction in predictions.items():
        info = prediction.engine
        planes, _ = imaging.prepare(prediction.radiograph, height=info.height, width=info.width)
        timed = Timed(
            engine=name,
            precision=info.precision,
            device=info.device,
            agreement=None if reference is None else _agreement(prediction, reference),
        )
        racers.append(_Racer(timed, desk.pipeline(name), planes[None]))
    return racers


def _race(desk: Desk, state: Comparison, racers: list[_Racer], patience_s: float) -> Iterator[Comparison]:
    failed = dict(state.failed)
    began, done = time.perf_counter(), 0
    for number in range(state.rounds + 1):  # the first round warms up
        turned = number % len(racers) if racers else 0
        for racer in [*racers[turned:], *racers[:turned]]:
            try:
                took_ms = _run_once(desk, racer)
            except Exception as error:  # noqa: BLE001 - as above
                failed[racer.timed.engine] = _sentence(error, racer.timed.engine)
                racers = [other for other in racers if other is not racer]
                continue
            if number:
                times_ms = (*racer.timed.times_ms, took_ms)
                racers = [_with_times(other, times_ms) if other is racer else other for other in racers]
        done = number
        if not racers or (done >= FEWEST_ROUNDS and time.perf_counter() - began > patience_s):
            break
        yield replace(state, doing=f"Round {done} of {state.rounds}", done=done, timed=_of(racers), failed=dict(failed))
    yield replace(state, doing=None, done=done, timed=_of(racers), failed=failed)


def _run_once(desk: Desk, racer: _Racer) -> float:
    with desk.turn():
        start = time.perf_counter()
        racer.pipeline.engine.run(racer.batch)
        return (time.perf_counter() - start) * 1000


def _with_times(racer: _Racer, times_ms: tuple[float, ...]) -> _Racer:
    return replace(racer, timed=replace(racer.timed, times_ms=times_ms))


def _of(racers: list[_Racer]) -> tuple[Timed, ...]:
    return tuple(racer.timed for racer in racers)


def _agreement(prediction: Prediction, reference: Prediction) -> dict[str, float]:
    """IoU by class of two predictions' masks for one image; two empty masks agree to 1."""
    return {
        name: float(Counts.of(mask, reference.masks[name]).iou[0])
        for name, mask in prediction.masks.items()
        if name in reference.masks
    }


def _sentence(error: Exception, engine: str) -> str:
    """What a failing engine costs: one sentence. What no engine should raise is in the log as well."""
    if isinstance(error, (EngineError, EngineUnavailable)):
        return str(error)
    log.error("the engine %s failed in a comparison", engine, exc_info=error)
    return f"{engine} failed; the server's log says why."
