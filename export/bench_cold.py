"""A process of its own for one engine: load time, first inference and peak memory, as one line of JSON.

Started by bench_engines; not a command for people. Latency is not measured here: see bench_engines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import EngineError, EngineUnavailable
from engines.select import open_engine
from export.machine import peak_memory_mb
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import load, prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was measured, or {"reason": ...} for an engine that does not open or run here."""
    parser = argparse.ArgumentParser(prog="python -m export.bench_cold", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("engine")
    parser.add_argument("image", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    options = parser.parse_args(arguments)
    files = find(options.model)
    image, _ = prepare(load(options.image), height=files.config.height, width=files.config.width)
    try:
        measured = measure(files, options.engine, image, precision=options.precision, batches=options.batches)
    except (EngineUnavailable, EngineError) as error:
        measured = {"reason": str(error)}
    print(json.dumps(measured))
    return 0


def measure(
    files: ModelFiles, engine: str, image: np.ndarray, *, precision: str | None, batches: Sequence[int]
) -> dict[str, Any]:
    """Open an engine and run one image uint8 (1, H, W) at every batch size, small ones first.

    load_ms includes the import of the runtime. peak_mb is the process's peak so far after each batch size: it only
    rises, so that the order gives each size its own.
    """
    start = time.perf_counter()
    opened = open_engine(engine, files, precision=precision)
    loaded = time.perf_counter()
    opened.run(image[None])
    first = time.perf_counter()
    peak_mb = {}
    for batch in sorted(batches):
        opened.run(np.repeat(image[None], batch, axis=0))
        peak_mb[str(batch)] = peak_memory_mb()
    precision = opened.info.precision
    opened.close()
    return {
        "precision": precision,
        "load_ms": (loaded - start) * 1e3,
        "first_ms": (first - loaded) * 1e3,
        "peak_mb": peak_mb,
    }


if __name__ == "__main__":
    sys.exit(main())
