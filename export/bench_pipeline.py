"""One X-ray's way by stage, as `predict --write masks,overlay` takes it. Engines side by side are elsewhere."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines import select
from sgmsnet.checkpoint import ModelFiles
from sgmsnet.commands.predict import Job, Results, write_files
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import STAGES, Prediction

KINDS = frozenset({"masks", "overlay"})
_WARM_UP_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Medians in milliseconds by stage, and of their sum, for one image file."""

    image: str
    width: int
    height: int
    engine: str
    precision: str
    rounds: int
    median_ms: dict[str, float]
    """By name of sgmsnet.prediction.STAGES; encode is writing the overlay and the masks as PNG."""
    together_ms: float
    """Median of the rounds' sums."""


def measure(files: ModelFiles, image: Path, *, rounds: int) -> Stages:
    """Predict one file `rounds` times with the engine that "auto" takes; raises EngineUnavailable."""
    engine = select.open_engine("auto", files)
    pipeline = Pipeline(engine, thresholds=files.thresholds, temperature=files.temperature)
    try:
        with tempfile.TemporaryDirectory(prefix="sgmsnet-bench-") as folder:

            def write(prediction: Prediction) -> None:
                write_files(prediction, Job(image, image.stem), Results(Path(folder), KINDS))

            return _measure(pipeline, image, write, rounds=rounds)
    finally:
        pipeline.close()


def _measure(pipeline: Pipeline, image: Path, write: Callable[[Prediction], None], *, rounds: int) -> Stages:
    for _ in range(_WARM_UP_RUNS):
        write(pipeline.predict(image))
    times_ms = np.empty((rounds, len(STAGES)))
    for turn in range(rounds):
        prediction = pipeline.predict(image)
        start = time.perf_counter()
        write(prediction)
        taken = {**prediction.timings_ms, "encode": (time.perf_counter() - start) * 1e3}
        times_ms[turn] = [taken[name] for name in STAGES]
    medians = np.median(times_ms, axis=0)
    return Stages(
        image=image.name,
        width=prediction.radiograph.width,
        height=prediction.radiograph.height,
        engine=pipeline.info.backend,
        precision=pipeline.info.precision,
        rounds=rounds,
        median_ms={name: float(value) for name, value in zip(STAGES, medians, strict=True)},
        together_ms=float(np.median(times_ms.sum(axis=1))),
    )
