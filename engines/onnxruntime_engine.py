"""ONNX Runtime: the graph beside the weights, in FP32, on the CPU or through the CUDA provider; no torch.

Not here: making the graph (export), and TensorRT, which is an engine of its own with its own cache.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.graph import usable_graph
from sgmsnet.checkpoint import ModelFiles

Device = Literal["auto", "cpu", "cuda"]


class OnnxRuntimeEngine:
    """A session of ONNX Runtime; sessions may be run from several threads at once."""

    info: EngineInfo

    def __init__(self, model: ModelFiles, *, precision: str | None = None, device: Device = "auto") -> None:
        """Open the graph. Raises EngineUnavailable when the graph, the package or the device is not there."""
        if precision not in (None, "fp32"):
            raise EngineUnavailable(f"onnxruntime runs this graph in fp32, not {precision}")
        graph = usable_graph(model)
        started = time.perf_counter()
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(f"onnxruntime cannot be imported: {error}") from error
        self._errors = _errors()
        self._session: Any = self._open(onnxruntime, graph, device)
        on_cuda = "CUDAExecutionProvider" in self._session.get_providers()
        if device == "cuda" and not on_cuda:
            raise EngineUnavailable("onnxruntime's CUDA provider did not start on this machine")
        given = {output.name for output in self._session.get_outputs()}
        self.info = EngineInfo(
            backend="onnxruntime",
            precision="fp32",
            device="CUDA" if on_cuda else "CPU",
            height=model.config.height,
            width=model.config.width,
            classes=model.config.classes,
            outputs=tuple(name for name in model.config.outputs if name in given),
            model=model.name,
            model_sha256=model.sha256,
            runtime_version=onnxruntime.__version__,
            load_ms=(time.perf_counter() - started) * 1e3,
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        session = self._session
        if session is None:
            raise EngineError("the onnxruntime engine is closed")
        try:
            values = session.run(list(self.info.outputs), {"images": images})
        except self._errors as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        return dict(zip(self.info.outputs, values, strict=True))

    def close(self) -> None:
        """Free the session; a run in another thread finishes first. A second call does nothing."""
        self._session = None

    def _open(self, onnxruntime: Any, graph: Path, device: Device) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = usable_cores()
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            # TF32 would leave the FP32 parity bound.
            providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
        elif device == "cuda":
            raise EngineUnavailable("this onnxruntime has no CUDA provider; the package onnxruntime-gpu has one")
        try:
            return onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except self._errors as error:
            raise EngineUnavailable(f"onnxruntime cannot open {graph.name}: {error}") from error


def usable_cores() -> int:
    """CPU cores that this process may use: fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _errors() -> tuple[type[Exception], ...]:
    # ONNX Runtime's own exceptions have no common base below Exception.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)
