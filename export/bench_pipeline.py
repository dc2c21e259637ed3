"""One X-ray's way by stage, as `predict --write masks,overlay` takes it. Engines side by side are elsewhere."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import sgmsnet
from sgmsnet.checkpoint import ModelFiles
from sgmsnet.commands.predict import Job, Results, write_files
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import STAGES, Prediction

KINDS = (("masks",), ("masks", "overlay"))
"""What is written, in one measurement after the other."""
_WARM_UP_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Medians in milliseconds by stage, and of their sum, for one image file."""

    write: str
    """What encode wrote, as predict's --write."""
    image: str
    width: int
    height: int
    engine: str
    precision: str
    rounds: int
    median_ms: dict[str, float]
    """By name of sgmsnet.prediction.STAGES; encode is writing PNG files."""
    together_ms: float
    """Median of the rounds' sums."""


def measure(files: ModelFiles, image: Path, *, rounds: int) -> list[Stages]:
    """Predict one file `rounds` times for each of KINDS with the engine of "auto"; raises EngineUnavailable."""
    pipeline = sgmsnet.load(files.weights)
    try:
        with tempfile.TemporaryDirectory(prefix="sgmsnet-bench-") as folder:
            return [_measure(pipeline, image, Path(folder), kinds, rounds=rounds) for kinds in KINDS]
    finally:
        pipeline.close()


def _measure(pipeline: Pipeline, image: Path, folder: Path, kinds: tuple[str, ...], *, rounds: int) -> Stages:
    job, results = Job(image, image.stem), Results(folder, frozenset(kinds))

    def write(prediction: Prediction) -> None:
        write_files(prediction, job, results)

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
        write=",".join(kinds),
        image=image.name,
        width=prediction.radiograph.width,
        height=prediction.radiograph.height,
        engine=pipeline.info.backend,
        precision=pipeline.info.precision,
        rounds=rounds,
        median_ms={name: float(value) for name, value in zip(STAGES, medians, strict=True)},
        together_ms=float(np.median(times_ms.sum(axis=1))),
    )
