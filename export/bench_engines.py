"""Engines side by side: each cold in its own process, then all in this one, taking turns, so that ratios hold.

Not here: what happens to an image before and after the engine (bench_pipeline.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import artefacts, select
from engines.base import Engine, EngineUnavailable
from export.machine import ROOT
from sgmsnet.checkpoint import ModelFiles

REFERENCE = ("pytorch", "fp32")
"""The engine and precision that all are compared with."""

_WARM_UP_RUNS = 3
_PAUSE_S = 0.02  # threads of the engine before may spin for some milliseconds while they wait for work
_CHILD_AT_MOST_S = 600


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine at one batch size; a line of the table and of the JSON file."""

    engine: str
    precision: str
    device: str
    batch: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    """Times of one run of the whole batch."""
    images_per_s: float
    load_ms: float
    first_ms: float
    """First inference, one image, in a new process."""
    peak_mb: float | None
    """Of a process with this engine alone, after running this batch size."""
    speedup_over_pytorch: float | None
    """Of p50 over PyTorch FP32 at the same batch size; None where that did not run."""


@dataclass(frozen=True)
class Skipped:
    """An engine that gave no row, and why."""

    engine: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cold:
    """What a fresh process measured; peak_mb by batch size."""

    engine: str
    precision: str
    load_ms: float
    first_ms: float
    peak_mb: dict[int, float | None]


def measure(
    files: ModelFiles, images: np.ndarray, image: Path, *, batches: Sequence[int], rounds: int
) -> tuple[list[Row], list[Skipped]]:
    """Measure every engine that opens, in its default precision, in FP32 and as built and verified here.

    images are uint8 (N, 1, H, W), `image` is the file that the cold processes run. Raises EngineUnavailable when no
    engine runs.
    """
    cold, skipped = measure_cold(files, image, batches=batches)
    if not cold:
        reasons = "; ".join(f"{entry.engine}: {entry.reason}" for entry in skipped)
        raise EngineUnavailable(f"no engine can run {files.name} ({reasons})")
    opened = [select.open_engine(one.engine, files, precision=one.precision) for one in cold]
    try:
        times = {batch: take_turns(opened, _batch(images, batch), rounds=rounds_at(batch, rounds)) for batch in batches}
        devices = [engine.info.device for engine in opened]
    finally:
        for engine in opened:
            engine.close()
    return rows(cold, devices, times), skipped


def rounds_at(batch: int, rounds: int) -> int:
    """Large batches take long and vary little: a third of the rounds, but ten where so many were asked for."""
    return rounds if batch <= 4 else min(rounds, max(10, rounds // 3))


def measure_cold(files: ModelFiles, image: Path, *, batches: Sequence[int]) -> tuple[list[Cold], list[Skipped]]:
    """Open each engine in a process of its own; a crash there is a reason here."""
    cold, skipped = [], []
    held = [one for one in artefacts.held(files) if one.verified]
    for found in select.probe(files):
        if not found.available:
            skipped.append(Skipped(found.name, found.reason))
            continue
        # The engine's own choice, FP32 where that is another one (so that PyTorch's is there), and verified artefacts.
        measured: set[str] = set()
        for precision in (None, "fp32", *(one.precision for one in held if one.runtime == found.name)):
            if precision in measured:
                continue
            outcome = _in_child(files, found.name, image, precision=precision, batches=batches)
            if isinstance(outcome, Cold):
                cold.append(outcome)
                measured.add(outcome.precision)
            else:
                skipped.append(Skipped(f"{found.name} {precision}" if precision else found.name, outcome))
    return cold, skipped


def _in_child(
    files: ModelFiles, engine: str, image: Path, *, precision: str | None, batches: Sequence[int]
) -> Cold | str:
    """The measurement of export.bench_cold, or the reason why there is none."""
    command = [sys.executable, "-m", "export.bench_cold", str(files.weights.resolve()), engine, str(image.resolve())]
    command += ["--batches", *map(str, batches)] + (["--precision", precision] if precision else [])
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_CHILD_AT_MOST_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_CHILD_AT_MOST_S} s"
    if ended.returncode != 0:
        last = ended.stderr.strip().rpartition("\n")[2]
        return f"its process ended with status {ended.returncode}" + (f": {last}" if last else "")
    facts: dict[str, Any] = json.loads(ended.stdout.strip().rpartition("\n")[2])
    if "reason" in facts:
        return str(facts["reason"])
    peak_mb = {int(batch): value for batch, value in facts.pop("peak_mb").items()}
    return Cold(engine=engine, peak_mb=peak_mb, **facts)


def take_turns(engines: Sequence[Engine], images: np.ndarray, *, rounds: int) -> list[np.ndarray]:
    """Time `rounds` runs of uint8 images (N, 1, H, W) on each engine, one engine after the other in every round.

    Returns milliseconds, float64 (rounds,), by engine. Every round starts with another engine. Before a timed run
    stands one that is not: it finds the caches full of another engine's weights and its own threads asleep.
    """
    for engine in engines:
        for _ in range(_WARM_UP_RUNS):
            engine.run(images)
    times_ms = np.empty((len(engines), rounds))
    for turn in range(rounds):
        for place in range(len(engines)):
            index = (turn + place) % len(engines)
            time.sleep(_PAUSE_S)
            engines[index].run(images)
            start = time.perf_counter()
            engines[index].run(images)
            times_ms[index, turn] = (time.perf_counter() - start) * 1e3
    return list(times_ms)


def rows(cold: Sequence[Cold], devices: Sequence[str], times: dict[int, list[np.ndarray]]) -> list[Row]:
    """One row for each engine and batch size; times are milliseconds (rounds,) by batch size and engine."""
    made = []
    for index, (one, device) in enumerate(zip(cold, devices, strict=True)):
        for batch, by_engine in times.items():
            p50, p95, p99 = percentiles(by_engine[index])
            reference = _reference_ms(cold, by_engine)
            made.append(
                Row(
                    engine=one.engine,
                    precision=one.precision,
                    device=device,
                    batch=batch,
                    p50_ms=p50,
                    p95_ms=p95,
                    p99_ms=p99,
                    images_per_s=batch * 1e3 / float(by_engine[index].mean()),
                    load_ms=one.load_ms,
                    first_ms=one.first_ms,
                    peak_mb=one.peak_mb.get(batch),
                    speedup_over_pytorch=None if reference is None else reference / p50,
                )
            )
    return made


def percentiles(times_ms: np.ndarray) -> tuple[float, float, float]:
    """50th, 95th and 99th percentile, linear between samples: of few samples the last is nearly the largest."""
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return float(p50), float(p95), float(p99)


def _reference_ms(cold: Sequence[Cold], by_engine: Sequence[np.ndarray]) -> float | None:
    for one, times_ms in zip(cold, by_engine, strict=True):
        if (one.engine, one.precision) == REFERENCE:
            return percentiles(times_ms)[0]
    return None


def _batch(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, 1, H, W), the images from the first one again when there are too few."""
    return np.resize(images, (size, *images.shape[1:]))
