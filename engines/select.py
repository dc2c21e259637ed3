"""Which runtimes are here, in which order they are tried, and why one was passed over; never imports torch.

Not here: measuring them (measure.py). Without a measured ranking the order is fixed: fastest kind first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines import cuda, examine, ranked, server_address
from engines.base import Availability, Engine, EngineRefused, EngineUnavailable, ServerEngine
from engines.graph import usable_graph
from engines.manifest import BUILT
from engines.plans import DISTRIBUTIONS, MODULES, Runtime, fitting_plan
from engines.ranked import Measured
from engines.verdicts import refuse_failed
from sgmsnet.checkpoint import ModelFiles

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """An open engine, and what was tried before it."""

    engine: Engine
    skipped: tuple[Availability, ...]


@dataclass(frozen=True)
class _Runtime:
    """What is known of a runtime without importing it."""

    module: str
    distributions: tuple[str, ...]
    """Any of these brings the module."""
    look: Callable[[ModelFiles], object]
    """Raises EngineUnavailable when a file or a device that it needs is not here."""
    open: Callable[[ModelFiles, str | None], Engine]
    look_closer: Callable[[ModelFiles, str, str | None], None] = examine.verdict
    """The same from model, name and version, at files that `open` reads by itself."""


def _tensorrt(runtime: Runtime) -> _Runtime:
    def open_it(model: ModelFiles, precision: str | None) -> Engine:
        from engines.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(model, runtime=runtime, precision=precision)

    return _Runtime(
        MODULES[runtime],
        DISTRIBUTIONS[runtime],
        lambda model: fitting_plan(model, runtime),
        open_it,
        lambda model, name, version: examine.plan(model, runtime, version),
    )


def _open_onnxruntime(model: ModelFiles, precision: str | None) -> Engine:
    from engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, precision=precision)


def _open_openvino(model: ModelFiles, precision: str | None) -> Engine:
    from engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(model, precision=precision)


def _open_pytorch(model: ModelFiles, precision: str | None) -> Engine:
    from engines.pytorch_engine import PyTorchEngine

    return PyTorchEngine(model, precision=precision)


def _open_triton(model: ModelFiles, precision: str | None) -> Engine:
    from engines.triton_engine import TritonEngine

    return TritonEngine(model, precision=precision)


_RUNTIMES = {
    "tensorrt": _tensorrt("tensorrt"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx"),
    "openvino": _Runtime("openvino", ("openvino",), usable_graph, _open_openvino),
    "onnxruntime": _Runtime("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), usable_graph, _open_onnxruntime),
    "pytorch": _Runtime("torch", ("torch",), lambda model: None, _open_pytorch),
    "triton": _Runtime("http.client", ("tritonclient",), lambda model: server_address.named_server(), _open_triton),
}
ENGINES: tuple[str, ...] = tuple(_RUNTIMES)
"""Names that `open_engine` takes besides "auto", in the order in which they are tried where nothing else is known."""


def ranking(measured: Sequence[Measured] = ()) -> tuple[str, ...]:
    """Engine names, best first; where ONNX Runtime can use CUDA it comes right after TensorRT.

    Engines that were measured on this machine stand in the order of their speed, the others keep their places.
    """
    names = ENGINES
    if _may_use_cuda():
        first = ("tensorrt", "tensorrt-rtx", "onnxruntime")
        names = (*first, *(name for name in ENGINES if name not in first))
    names = ranked.reorder(names, measured)
    if server_address.was_named():  # who names a server wants it
        names = ("triton", *(name for name in names if name != "triton"))
    return names


def probe(model: ModelFiles, *, known: Sequence[Measured] | None = None) -> list[Availability]:
    """What is known of each runtime for this model here, in ranking order; imports none and never raises.

    Plans are read to their end, and verdicts of verification are heeded. `known` is what `doctor --measure` found, by
    default as it was kept: an engine whose process failed then is not available, for that reason.
    """
    measured = ranked.read(model) if known is None else known
    return [_probe(name, model, measured, closer=True) for name in ranking(measured)]


def choose(name: str, model: ModelFiles, *, precision: str | None = None) -> Choice:
    """Open the named engine, or with "auto" the first of the ranking that opens.

    Raises EngineUnavailable: with the reason of the named engine, or with every reason when none opens.
    """
    if name != "auto" and name not in ENGINES:
        raise EngineUnavailable(f"there is no engine {name!r}; there are auto, {', '.join(ENGINES)}")
    skipped: list[Availability] = []
    measured = ranked.read(model) if name == "auto" else ()
    waiting = deque(ranking(measured) if name == "auto" else (name,))
    while waiting:
        candidate = waiting.popleft()
        found = _probe(candidate, model, measured)
        if found.available:
            try:
                engine = _open(candidate, model, precision)
                if measured or not _left_its_gpu(engine, waiting):
                    return Choice(engine, tuple(skipped))
                engine.close()
                waiting.insert(waiting.index("openvino") + 1, candidate)
                found = Availability(candidate, False, engine.info.notes[0], found.version, refused=True)
            except EngineUnavailable as error:
                found = Availability(candidate, False, str(error), found.version, refused=True)
        if name != "auto":
            raise EngineUnavailable(found.reason)
        _log.info("engine %s passed over: %s", candidate, found.reason)
        skipped.append(found)
    reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped)
    raise EngineUnavailable(f"no engine can run {model.name} ({reasons})")


def open_engine(name: str, model: ModelFiles, *, precision: str | None = None) -> Engine:
    """The engine of `choose`, without what was passed over."""
    return choose(name, model, precision=precision).engine


def open_unverified(name: str, model: ModelFiles, *, precision: str | None = None, built: Path = BUILT) -> Engine:
    """The engine of `choose` for verification alone: a named engine opens although it failed, or was never verified.

    `built` holds artefacts and verdicts.
    """
    if name == "auto" or name not in ENGINES:
        return open_engine(name, model, precision=precision)
    if name in MODULES and _importable(_RUNTIMES[name].module):  # the probe passes over a plan that failed
        from engines.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(model, runtime=name, precision=precision, built=built, unverified=True)
    found = _probe(name, model, ())
    if not found.available:
        raise EngineUnavailable(found.reason)
    if name == "openvino":
        from engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(model, precision=precision, built=built, unverified=True)
    if name == "onnxruntime":
        from engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, precision=precision, built=built, unverified=True)
    return _RUNTIMES[name].open(model, precision)


def _open(name: str, model: ModelFiles, precision: str | None) -> Engine:
    engine = _RUNTIMES[name].open(model, precision)
    try:
        refuse_failed(engine.info)
    except EngineUnavailable:
        engine.close()
        raise
    return engine


def open_server(address: server_address.Address, model: ModelFiles) -> ServerEngine:
    """The engine of one server that is named here and now; raises EngineUnavailable."""
    from engines.triton_engine import TritonEngine

    return TritonEngine(model, address=address)


def _probe(name: str, model: ModelFiles, measured: Sequence[Measured], *, closer: bool = False) -> Availability:
    runtime = _RUNTIMES[name]
    version = _version(runtime.distributions)
    if not _importable(runtime.module):
        return Availability(name, False, f"the package {runtime.distributions[0]} is not installed", None)
    try:
        runtime.look(model)
        if closer:
            runtime.look_closer(model, name, version)
    except EngineUnavailable as error:
        return Availability(name, False, str(error), version, refused=isinstance(error, EngineRefused))
    except OSError as error:  # without the path, which visitors of a page would read
        return Availability(name, False, f"a file cannot be read: {error.strerror or type(error).__name__}", version)
    for one in measured:
        if one.name == name and one.median_ms is None:
            return Availability(
                name, False, f"it did not run when it was measured: {one.reason}", version, refused=True
            )
    return Availability(name, True, "installed", version)


def _left_its_gpu(engine: Engine, waiting: Iterable[str]) -> bool:
    """Whether ONNX Runtime, tried first for its GPU, runs on the CPU instead, where OpenVINO is faster and waits."""
    info = engine.info
    return info.backend == "onnxruntime" and info.device == "CPU" and bool(info.notes) and "openvino" in waiting


def _may_use_cuda() -> bool:
    return _version(("onnxruntime-gpu",)) is not None and _has_gpu()


def _has_gpu() -> bool:
    try:
        cuda.first_gpu()
    except EngineUnavailable:
        return False
    return True


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a half-removed package
        return False


def _version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
