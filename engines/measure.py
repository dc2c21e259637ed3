"""Measure each engine in a process of its own, so that one that crashes is a reason and no crash here.

`python -m engines.measure WEIGHTS ENGINE` is that process. Only for the order of `auto`: `python -m export benchmark`
measures for people.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engines import select
from engines.base import Engine, EngineError, EngineUnavailable
from engines.ranked import Measured
from sgmsnet.checkpoint import ModelFiles, find

ROUNDS = 5
_RUNS = 8
_WARM_UP = 3
_AT_MOST_S = 180
_ROOT = Path(__file__).resolve().parent.parent


def measure(
    model: ModelFiles, *, rounds: int = ROUNDS, report: Callable[[str], None] = lambda line: None
) -> list[Measured]:
    """Open and run every engine whose package is here, one after the other; `report` is told each before it starts.

    Takes the median over the rounds of each round's median, so that a moment's disturbance does not decide.
    """
    measured = []
    for found in select.probe(model, known=()):
        if found.available:
            report(found.name)
            measured.append(in_child(model, found.name, rounds=rounds))
    return measured


def in_child(model: ModelFiles, name: str, *, rounds: int = ROUNDS) -> Measured:
    """Measure one engine; whatever happens to its process becomes the reason."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "engines.measure", str(model.weights.resolve()), name, str(rounds)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_AT_MOST_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return _failed(name, f"it did not answer within {_AT_MOST_S} s")
    if done.returncode < 0:
        return _failed(name, f"its process was ended by signal {-done.returncode}")
    said = done.stderr.strip().splitlines()
    if done.returncode:
        return _failed(name, said[-1] if said else f"its process ended with status {done.returncode}")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return Measured(name=name, reason=None, **facts)


def _failed(name: str, reason: str) -> Measured:
    return Measured(name=name, precision=None, median_ms=None, load_ms=None, reason=reason)


def median_ms(engine: Engine, *, rounds: int) -> float:
    """Of one image of noise."""
    shape = (1, 1, engine.info.height, engine.info.width)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(_WARM_UP):
        engine.run(images)
    medians = []
    for _ in range(rounds):
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            engine.run(images)
            times.append((time.perf_counter() - start) * 1e3)
        medians.append(statistics.median(times))
    return statistics.median(medians)


def main(arguments: Sequence[str]) -> int:
    """The child process: one line of JSON, or status 1 and one sentence on stderr."""
    weights, name, rounds = arguments
    try:
        engine = select.open_engine(name, find(Path(weights)))
        facts = {
            "precision": engine.info.precision,
            "load_ms": engine.info.load_ms,
            "median_ms": median_ms(engine, rounds=int(rounds)),
        }
        engine.close()
    except (EngineUnavailable, EngineError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
