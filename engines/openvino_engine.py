"""OpenVINO on the CPU: the graph beside the weights, in BF16 where the CPU has it; no torch, no telemetry.

Not here: converting and quantising. The graph is read with Core.read_model, which sends nothing; the converter
and nncf would.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.graph import usable_graph
from sgmsnet.checkpoint import ModelFiles

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A compiled model with one infer request per thread."""

    info: EngineInfo

    def __init__(self, model: ModelFiles, *, precision: str | None = None) -> None:
        """Compile the graph; raises EngineUnavailable when graph, package or precision is not there."""
        graph = usable_graph(model)
        started = time.perf_counter()
        try:
            import openvino
        except ImportError as error:
            raise EngineUnavailable(f"openvino cannot be imported: {error}") from error
        try:
            core = openvino.Core()
            device = core.get_property("CPU", "FULL_DEVICE_NAME")
            precision = _choose_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            options = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
            self._compiled: Any = core.compile_model(core.read_model(graph), "CPU", options)
        except EngineUnavailable:
            raise
        except RuntimeError as error:
            raise EngineUnavailable(f"openvino cannot open {graph.name}: {error}") from error
        self._requests = threading.local()
        given = {port.get_any_name() for port in self._compiled.outputs}
        self.info = EngineInfo(
            backend="openvino",
            precision=precision,
            device=f"CPU ({device})",
            height=model.config.height,
            width=model.config.width,
            classes=model.config.classes,
            outputs=tuple(name for name in model.config.outputs if name in given),
            model=model.name,
            model_sha256=model.sha256,
            runtime_version=openvino.__version__,
            load_ms=(time.perf_counter() - started) * 1e3,
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        compiled = self._compiled
        if compiled is None:
            raise EngineError("the openvino engine is closed")
        try:
            request = self._request(compiled)
            request.infer({"images": np.ascontiguousarray(images)})
            return {name: _copy(request.get_tensor(name).data) for name in self.info.outputs}
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {error}") from error

    def close(self) -> None:
        """Let go of the compiled model and of every thread's request; a second call does nothing."""
        self._compiled = None
        self._requests = threading.local()

    def _request(self, compiled: Any) -> Any:
        # A request holds its tensors, so two threads must not share one.
        if not hasattr(self._requests, "request"):
            self._requests.request = compiled.create_infer_request()
        return self._requests.request


def _choose_precision(asked: str | None, capabilities: list[str]) -> str:
    supported = [name for name in ("bf16", "fp32") if name.upper() in capabilities]
    if asked is None:
        return supported[0]
    if asked not in supported:
        raise EngineUnavailable(f"openvino runs {', '.join(supported)} on this CPU, not {asked}")
    return asked


def _copy(values: np.ndarray) -> np.ndarray:
    # The next run of this thread writes into the same memory.
    return np.array(values, dtype=np.float32, order="C")
