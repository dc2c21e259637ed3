"""The OpenVINO engine beside OpenVINO's own benchmark_app on the same graph, taking turns in one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines import select
from engines.artefacts import runnable_graph
from engines.base import Engine, EngineUnavailable
from sgmsnet.checkpoint import ModelFiles

SHARE_AT_LEAST = 0.95
_AT_MOST_S = 120


class ToolError(RuntimeError):
    """benchmark_app is not here or did not answer, for the reason given in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Medians of one image's latency, over the turns."""

    precision: str
    engine_ms: float
    tool_ms: float

    @property
    def share(self) -> float:
        """Of the tool's speed that the engine reaches, 0 to 1 and above."""
        return self.tool_ms / self.engine_ms


def measure(files: ModelFiles, *, turns: int = 3, seconds: float = 3.0) -> Beside:
    """Let "auto", where that is OpenVINO, and the tool take turns; raises ToolError or EngineUnavailable."""
    tool = Path(sys.executable).with_name("benchmark_app")
    if not tool.is_file():
        raise ToolError("benchmark_app is not installed; it comes with the package openvino")
    engine = select.open_engine("auto", files)
    try:
        info = engine.info
        if info.backend != "openvino":
            raise EngineUnavailable(f"auto takes {info.backend} here, which benchmark_app does not run")
        graph, _ = runnable_graph(files, info.precision, version=info.runtime_version)
        ours, tools = [], []
        for _ in range(turns):
            ours.append(_engine_ms(engine, seconds=seconds))
            shape = f"images[1,1,{info.height},{info.width}]"
            tools.append(_tool_ms(tool, graph, info.precision, shape=shape, seconds=seconds))
    finally:
        engine.close()
    return Beside(precision=info.precision, engine_ms=float(np.median(ours)), tool_ms=float(np.median(tools)))


def _engine_ms(engine: Engine, *, seconds: float) -> float:
    """Median of one image's run."""
    shape = (1, 1, engine.info.height, engine.info.width)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(3):
        engine.run(image)
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        engine.run(image)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def _tool_ms(tool: Path, graph: Path, precision: str, *, shape: str, seconds: float) -> float:
    command = [str(tool), "-m", str(graph), "-d", "CPU", "-hint", "latency", "-api", "sync", "-shape", shape]
    command += ["-t", f"{max(1, round(seconds))}"]
    command += ["-infer_precision", {"bf16": "bf16", "fp32": "f32"}.get(precision, "f32")]
    environment = {**os.environ, "CI": "true"}  # OpenVINO's tools send nothing home then
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_AT_MOST_S
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"benchmark_app did not answer within {_AT_MOST_S} s") from error
    return median_of(done.stdout)


def median_of(said: str) -> float:
    """Milliseconds after "Median:" in what benchmark_app said; raises ToolError."""
    found = re.search(r"Median:\s+([\d.]+) ms", said)
    if found is None:
        last = said.strip().rpartition("\n")[2]
        raise ToolError(f"benchmark_app gave no median: {last or 'it said nothing'}")
    return float(found.group(1))
