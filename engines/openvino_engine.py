"""OpenVINO on the CPU: the graph beside the weights, in BF16 where the CPU has it, or an artefact built here; no torch.

Not here: converting and quantising (`python -m export openvino`). The package is imported without its converter, which
would report that to its maker (openvino_runtime.py), and the graph is read with Core.read_model, which sends nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.artefacts import build_command, fitting_artefact
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.graph import describe, usable_graph
from engines.manifest import BUILT
from engines.openvino_runtime import import_openvino
from sgmsnet.checkpoint import ModelFiles

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_DEFAULTS = ("bf16", "fp32")  # FP16 only when it is asked for: its range is small


class OpenVinoEngine:
    """A model compiled for one image and, from the first other batch on, for any; one infer request per thread."""

    info: EngineInfo

    def __init__(
        self, model: ModelFiles, *, precision: str | None = None, built: Path = BUILT, unverified: bool = False
    ) -> None:
        """Compile the graph; raises EngineUnavailable when graph, package or precision is not there.

        INT8 opens the artefact in `built`, and no other precision's graph in its place; the others run an artefact
        where one was built, and the graph beside the weights otherwise. `unverified` opens an artefact that
        verification has not accepted, to verify it.
        """
        usable_graph(model)
        started = time.perf_counter()
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise EngineUnavailable(f"openvino cannot be imported: {error}") from error
        graph = None
        try:
            core = openvino.Core()
            device = core.get_property("CPU", "FULL_DEVICE_NAME")
            precision, hint = _choose_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            graph = _graph(model, precision, version=openvino.__version__, built=built, unverified=unverified)
            self._source: _Source | None = _Source(core, graph, model, hint)
            one = self._source.compile(batch=1)
        except EngineUnavailable:
            raise
        except RuntimeError as error:
            raise EngineUnavailable(f"openvino cannot open {graph or 'the processor'}: {error}") from error
        self._compiled: dict[bool, Any] = {True: one}  # by whether it is for one image alone
        self._lock = threading.Lock()
        self._requests = threading.local()
        self.info = describe(
            model,
            backend="openvino",
            precision=precision,
            device=f"CPU ({device})",
            version=openvino.__version__,
            outputs={port.get_any_name() for port in one.outputs},
            started=started,
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        source = self._source
        if source is None:
            raise EngineError("the openvino engine is closed")
        try:
            return self._request(source, single=len(images) == 1).run(images)
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {error}") from error

    def close(self) -> None:
        """Let go of the compiled models and of every thread's requests; a second call does nothing."""
        self._source = None
        self._compiled = {}
        self._requests = threading.local()

    def _request(self, source: _Source, *, single: bool) -> _Single | _Batch:
        # A request holds its tensors, so two threads must not share one.
        requests = self._requests.__dict__
        if str(single) not in requests:
            compiled = self._compiled
            with self._lock:
                if single not in compiled:
                    compiled[single] = source.compile(batch=-1)
            kind = _Single if single else _Batch
            requests[str(single)] = kind(compiled[single].create_infer_request(), self.info.outputs)
        return requests[str(single)]


class _Single:
    """A request for one image in its own tensors: handing it others each time would cost 3 % of the latency."""

    def __init__(self, request: Any, names: tuple[str, ...]) -> None:
        self._request = request
        self._images: np.ndarray = request.get_input_tensor().data
        self._outputs: dict[str, np.ndarray] = {name: request.get_tensor(name).data for name in names}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self._images[...] = images
        self._request.infer(share_inputs=True, share_outputs=True)
        return {name: _copy(values) for name, values in self._outputs.items()}


class _Batch:
    """A request for any number of images, whose tensors change with it."""

    def __init__(self, request: Any, names: tuple[str, ...]) -> None:
        self._request, self._names = request, names

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        # Shared: the wrapper would copy the images, and every output once more than is needed.
        shared = np.require(images, requirements=["C", "W"])
        self._request.infer({"images": shared}, share_inputs=True, share_outputs=True)
        return {name: _copy(self._request.get_tensor(name).data) for name in self._names}


@dataclass(frozen=True, eq=False)
class _Source:
    """What a model is compiled from."""

    core: Any
    graph: Path
    model: ModelFiles
    hint: str

    def compile(self, *, batch: int) -> Any:
        """For batches of one size, or with -1 of any, which makes one image some percent slower."""
        read = self.core.read_model(self.graph)
        read.reshape([batch, 1, self.model.config.height, self.model.config.width])
        return self.core.compile_model(
            read, "CPU", {"INFERENCE_PRECISION_HINT": self.hint, "PERFORMANCE_HINT": "LATENCY"}
        )


def _choose_precision(asked: str | None, capabilities: list[str]) -> tuple[str, str]:
    """The precision, and the hint that OpenVINO takes for it."""
    supported = [name for name in ("bf16", "fp32", "fp16", "int8") if name.upper() in capabilities]
    best = next(name for name in _DEFAULTS if name in supported)
    chosen = asked or best
    if chosen not in supported:
        raise EngineUnavailable(f"openvino runs {', '.join(supported)} on this CPU, not {asked}")
    # Beside quantised layers OpenVINO 2026.4 finds no implementation of some others in BF16 and FP16.
    return chosen, _HINTS["fp32" if chosen == "int8" else chosen]


def _graph(model: ModelFiles, precision: str, *, version: str, built: Path, unverified: bool) -> Path:
    artefact = fitting_artefact(model, precision, version=version, built=built, unverified=unverified)
    if artefact is None and precision == "int8":
        raise EngineUnavailable(
            f"no openvino artefact in int8 was built for {model.name}; `{build_command('int8')}` builds one"
        )
    return artefact or usable_graph(model)


def _copy(values: np.ndarray) -> np.ndarray:
    # The next run of this thread writes into the same memory.
    return np.array(values, dtype=np.float32, order="C")
