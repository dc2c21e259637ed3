"""An ONNX file to a TensorRT plan, in this process: one order of calls for TensorRT 8.6, 10, 11 and TensorRT for RTX.

Run as `python -m export.plan REQUEST.json` it is the child process of to_tensorrt.py: building may take minutes and
all memory, and where the system kills it, the parent says so. Not here: making the ONNX file, and the manifest.
No hardware but TensorRT for RTX's builder has run this; the calls of the others are asserted with fakes.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export import ExportError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module of each engine name."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to build; JSON-ready but for its paths, which are text."""

    runtime: str
    """A key of MODULES."""
    graph: str
    plan: str
    """File to write."""
    precision: str
    """fp16 or fp32, as the graph was exported."""
    workspace_mb: int
    """Largest scratch memory on the device."""
    batch_best: int = 1
    """Batch that the plan is tuned for."""
    batch_max: int = 16
    compute_capabilities: tuple[str, ...] = ()
    """To build for ahead of time, TensorRT for RTX only; empty: for the GPU here."""
    timing_cache: str | None = None
    """File that keeps measured tactics from one build to the next, of this TensorRT and GPU; None: keep none."""


def build_plan(
    trt: Any, request: PlanRequest, *, progress: Callable[[str, int], None], say: Callable[[str], None] = print
) -> bytes:
    """Parse and build with the module trt; `progress` is told a phase and its percentage, `say` what else is of note.

    Raises ExportError when the parser or the builder refuses.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # "factory function returned nullptr", which tells nobody anything
        raise ExportError(
            f"{request.runtime} {trt.__version__} cannot use the driver of this GPU: packages for CUDA 13 need one of "
            "580 or newer (`nvidia-smi`), those for CUDA 12 run under older ones (requirements-gpu.txt)"
        ) from None
    network = builder.create_network(_network_flags(trt))
    _parse(trt.OnnxParser(network, logger), request)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb * 2**20)
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 parts stay FP32
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT for RTX: without it no CUDA graph is promised
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if request.precision == "fp16" and not _is_strongly_typed(trt):
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        if not _hold_fp32(trt, network):
            say("TensorRT takes every layer of this graph for FP32, and holds it there: do not expect FP16's speed")
    _share_profile(trt, config)
    config.add_optimization_profile(_profile(builder, network, request))
    _target(trt, config, request)
    if request.timing_cache is not None:
        _read_timing_cache(config, Path(request.timing_cache))
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, progress)
    else:
        say(f"TensorRT {trt.__version__} tells no progress; building takes some minutes")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{request.runtime} {trt.__version__} could not build {Path(request.graph).name}")
    if request.timing_cache is not None:
        _write_timing_cache(config, Path(request.timing_cache))
    return bytes(plan)


def _is_strongly_typed(trt: Any) -> bool:
    """From TensorRT 10 on, types are those of the graph; TensorRT for RTX knows no other way."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16")


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    if _is_strongly_typed(trt):
        return 0  # TensorRT 11: always so, and without a flag
    return 1 << int(flags.EXPLICIT_BATCH)


def _parse(parser: Any, request: PlanRequest) -> None:
    if not parser.parse_from_file(request.graph):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise ExportError(f"{request.runtime} cannot read {Path(request.graph).name}: {' '.join(reason.split())}")


def _hold_fp32(trt: Any, network: Any) -> bool:
    """TensorRT 8 chooses types itself: hold those layers to FP32 that give FP32; returns whether any does not."""
    is_any_half = False
    free = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in free:
            continue
        if layer.get_output(0).dtype == trt.float32:
            layer.precision = trt.float32
        elif layer.get_output(0).dtype == trt.float16:
            is_any_half = True
    return is_any_half


def _share_profile(trt: Any, config: Any) -> None:
    """Let contexts share the one profile, as the engine's do, one for each batch size; always so from 10.0 on."""
    feature = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if feature is not None and not _is_strongly_typed(trt):
        config.set_preview_feature(feature, True)


def _profile(builder: Any, network: Any, request: PlanRequest) -> Any:
    if network.num_inputs != 1:
        raise ExportError(f"{Path(request.graph).name} has {network.num_inputs} inputs, not one")
    images = network.get_input(0)
    sizes = tuple(images.shape)[1:]
    profile = builder.create_optimization_profile()
    batches = (1, request.batch_best, request.batch_max)
    profile.set_shape(images.name, *((batch, *sizes) for batch in batches))
    return profile


def _target(trt: Any, config: Any, request: PlanRequest) -> None:
    if not request.compute_capabilities:
        return
    config.num_compute_capabilities = len(request.compute_capabilities)
    for index, text in enumerate(request.compute_capabilities):
        target = getattr(trt.ComputeCapability, f"SM{text.replace('.', '')}", None)
        if target is None or not config.set_compute_capability(target, index):
            raise ExportError(f"TensorRT for RTX {trt.__version__} does not build for compute capability {text}")


def _read_timing_cache(config: Any, path: Path) -> None:
    """What earlier builds measured; a cache that cannot be read is begun anew."""
    content = b""
    with suppress(OSError):
        content = path.read_bytes()
    cache = config.create_timing_cache(content)
    if cache is None:
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)


def _write_timing_cache(config: Any, path: Path) -> None:
    """Keep what was measured; a plan that was built is worth more than its cache, so failing is no error."""
    cache = config.get_timing_cache()
    if cache is not None:
        with suppress(OSError):
            path.write_bytes(bytes(cache.serialize()))


def _monitor(trt: Any, progress: Callable[[str, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells of the outermost phase; those within it are too many for a person."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # TensorRT's classes do not take super()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, 100 * (step + 1) // max(self.steps[phase_name], 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            if self.steps.pop(phase_name, None) is not None:
                progress(phase_name, 100)

    return Monitor()


def main(arguments: list[str]) -> int:
    """The child process: build as the request says; the last line of stdout is JSON, a refusal is on stderr."""
    values = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    request = PlanRequest(**values | {"compute_capabilities": tuple(values["compute_capabilities"])})
    try:
        trt = importlib.import_module(MODULES[request.runtime])
        plan = build_plan(trt, request, progress=lambda phase, percent: print(f"{phase}: {percent} %", flush=True))
    except (ExportError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    Path(request.plan).write_bytes(plan)
    print(json.dumps({"runtime_version": trt.__version__}))
    return 0


def request_text(request: PlanRequest) -> str:
    """The JSON that `main` reads."""
    return json.dumps(asdict(request))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
