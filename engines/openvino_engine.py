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

from engines import processor
from engines.artefacts import runnable_graph
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.graph import describe, usable_graph
from engines.manifest import BUILT
from engines.openvino_runtime import import_openvino, shared_core
from sgmsnet.checkpoint import ModelFiles

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_DEFAULTS = ("bf16", "fp32")  # FP16 only when it is asked for: its range is small


class OpenVinoEngine:
    """A model compiled for one image and, from the first other batch on, for any; each run has a request to itself."""

    info: EngineInfo

    def __init__(
        self, model: ModelFiles, *, precision: str | None = None, built: Path = BUILT, unverified: bool = False
    ) -> None:
        """Compile the graph; raises EngineUnavailable when graph, package or precision is not there.

        INT8 opens the artefact in `built`, and no other precision's graph in its place; the others run an artefact
        where a fitting one was built, and the graph beside the weights otherwise. `unverified` opens an artefact that
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
            core = shared_core()
            device = core.get_property("CPU", "FULL_DEVICE_NAME")
            precision, hint = _choose_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            graph, notes = runnable_graph(
                model, precision, version=openvino.__version__, built=built, unverified=unverified
            )
            source = _Source(core, graph, model, hint)
            one = source.compile(batch=1)
        except EngineUnavailable:
            raise
        except RuntimeError as error:
            raise EngineUnavailable(f"openvino cannot open {graph or 'the processor'}: {error}") from error
        self.info = describe(
            model,
            backend="openvino",
            precision=precision,
            device=f"CPU ({device})",
            version=openvino.__version__,
            outputs={port.get_any_name() for port in one.outputs},
            started=started,
            notes=notes,
        )
        self._open: _Open | None = _Open(source, one, self.info.outputs)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        opened = self._open  # a run that has begun keeps what it needs, whoever closes meanwhile
        if opened is None:
            raise EngineError("the openvino engine is closed")
        try:
            return opened.run(images)
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {error}") from error

    def close(self) -> None:
        """Let go of requests and compiled models, those of a run in another thread when it ends; twice does nothing."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()


class _Open:
    """Compiled models and the requests that wait for the next run; runs at the same time take one each."""

    def __init__(self, source: _Source, one: Any, names: tuple[str, ...]) -> None:
        self._source, self._names = source, names
        self._compiled: dict[bool, Any] = {True: one}  # by whether it is for one image alone
        self._idle: dict[bool, list[_Single | _Batch]] = {True: [], False: []}
        self._lock, self._compiling = threading.Lock(), threading.Lock()
        self._closed = False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        single = len(images) == 1
        request = self._request(single=single)
        outputs = request.run(images)  # a request that failed is not used again
        with self._lock:
            if not self._closed:
                self._idle[single].append(request)
        return outputs

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._idle = {True: [], False: []}

    def _request(self, *, single: bool) -> _Single | _Batch:
        with self._lock:
            if self._idle[single]:
                return self._idle[single].pop()
        with self._compiling:
            if single not in self._compiled:
                self._compiled[single] = self._source.compile(batch=-1)
        return (_Single if single else _Batch)(self._compiled[single], self._names)


class _Single:
    """A request for one image in its own tensors: handing it others each time would cost 3 % of the latency."""

    def __init__(self, compiled: Any, names: tuple[str, ...]) -> None:
        # Attributes are let go in the order in which they were set: the request goes before what it uses.
        self._request: Any = compiled.create_infer_request()
        self._images: np.ndarray = self._request.get_input_tensor().data
        self._outputs: dict[str, np.ndarray] = {name: self._request.get_tensor(name).data for name in names}
        self._compiled = compiled

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self._images[...] = images
        self._request.infer(share_inputs=True, share_outputs=True)
        return {name: _copy(values) for name, values in self._outputs.items()}


class _Batch:
    """A request for any number of images, whose tensors change with it."""

    def __init__(self, compiled: Any, names: tuple[str, ...]) -> None:
        self._request: Any = compiled.create_infer_request()
        self._shared: np.ndarray | None = None  # after the request, as above: it reads this memory
        self._compiled, self._names = compiled, names

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        # Shared: the wrapper would copy the images, and every output once more than is needed.
        shared = np.require(images, requirements=["C", "W"])
        self._request.infer({"images": shared}, share_inputs=True, share_outputs=True)
        self._shared = shared  # only now: the request held the last one until here
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
    if asked == "int8":
        processor.require_int8()
    known = ("bf16", "fp32", "fp16", *(["int8"] if processor.multiplies_int8() else []))
    supported = [name for name in known if name.upper() in capabilities]
    best = next(name for name in _DEFAULTS if name in supported)
    chosen = asked or best
    if chosen not in supported:
        raise EngineUnavailable(f"openvino runs {', '.join(supported)} on this CPU, not {asked}")
    # Beside quantised layers OpenVINO 2026.4 finds no implementation of some others in BF16 and FP16.
    return chosen, _HINTS["fp32" if chosen == "int8" else chosen]


def _copy(values: np.ndarray) -> np.ndarray:
    # The next run of this request writes into the same memory.
    return np.array(values, dtype=np.float32, order="C")
