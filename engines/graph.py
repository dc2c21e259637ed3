"""The graph that runtimes other than PyTorch open, once it is known to belong to the weights; opens nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from engines.base import EngineInfo, EngineRefused, EngineUnavailable
from sgmsnet.checkpoint import ModelFiles, WeightsError, verify_graph


def usable_graph(model: ModelFiles) -> Path:
    """The ONNX file of a model; raises EngineUnavailable when there is none or it is of other weights."""
    try:
        return verify_graph(model)
    except WeightsError as error:
        kind = EngineUnavailable if model.graph is None else EngineRefused
        raise kind(str(error)) from error


def describe(
    model: ModelFiles,
    *,
    backend: str,
    precision: str,
    device: str,
    version: str,
    outputs: Collection[str],
    started: float,
    notes: tuple[str, ...] = (),
) -> EngineInfo:
    """Facts of an engine that has just opened a model; its outputs come in the order of the model's configuration.

    `started` is the time.perf_counter() at which opening began.
    """
    return EngineInfo(
        backend=backend,
        precision=precision,
        device=device,
        height=model.config.height,
        width=model.config.width,
        classes=model.config.classes,
        outputs=tuple(name for name in model.config.outputs if name in outputs),
        model=model.name,
        model_sha256=model.sha256,
        runtime_version=version,
        load_ms=(time.perf_counter() - started) * 1e3,
        notes=notes,
    )
