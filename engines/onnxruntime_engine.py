"""ONNX Runtime: the graph beside the weights, on the CPU or through its CUDA or TensorRT provider; no torch.

FP32 everywhere; FP16 through the TensorRT provider, which builds and keeps plans of its own and chooses by itself what
runs in FP16, the memory included: only once it was verified. The GPU providers are tested with fakes, and have not run
on hardware yet. Not here: making the graph (export), and TensorRT by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engines import cuda, processor, verdicts
from engines.base import EngineError, EngineInfo, EngineRefused, EngineUnavailable, check_images
from engines.graph import describe, usable_graph
from engines.manifest import BUILT
from engines.plans import BATCH_MAX, plan_folder
from sgmsnet.checkpoint import ModelFiles

Device = Literal["auto", "cpu", "cuda"]
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NAMES = {_CUDA: "CUDA", _TENSORRT: "TensorRT"}


class OnnxRuntimeEngine:
    """A session of ONNX Runtime; sessions may be run from several threads at once."""

    info: EngineInfo

    def __init__(
        self,
        model: ModelFiles,
        *,
        precision: str | None = None,
        device: Device = "auto",
        built: Path = BUILT,
        unverified: bool = False,
    ) -> None:
        """Open the graph. Raises EngineUnavailable when the graph, the package or the device is not there.

        FP16 needs the TensorRT provider, which keeps its plans in `built`, and a verdict there that it gives PyTorch's
        answer; `unverified` opens it without one, to verify it.
        """
        if precision not in (None, "fp32", "fp16"):
            raise EngineUnavailable(f"onnxruntime runs this graph in fp32, or in fp16 on a GPU, not {precision}")
        graph = usable_graph(model)
        started = time.perf_counter()
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(f"onnxruntime cannot be imported: {error}") from error
        precision = precision or "fp32"
        gpu = _gpu(onnxruntime.get_available_providers(), precision, device)
        if gpu and hasattr(onnxruntime, "preload_dlls"):  # CUDA and cuDNN of pip's packages; from 1.21 on
            onnxruntime.preload_dlls()
        if precision == "fp16":
            with contextlib.suppress(ImportError):  # pip's TensorRT lies where the provider does not look
                importlib.import_module("tensorrt_libs")
        self._errors = _errors()
        name, version = Path(model.name).name, onnxruntime.__version__
        folder = plan_folder(built, name, "onnxruntime", precision)
        on = f"{_NAMES[gpu[0]]} ({gpu[1]})" if gpu else "CPU"
        if precision == "fp16" and not unverified:
            _refuse_unverified(folder, model, version=version, device=on)
        cache = folder / _cache_name(model, version=version, gpu=gpu[1] if gpu else "")
        sizes = (1, model.config.height, model.config.width)
        self._session: Any = self._open(onnxruntime, graph, _providers(gpu, precision, cache, sizes))
        notes: tuple[str, ...] = ()
        if gpu and gpu[0] not in self._session.get_providers():
            failed = f"onnxruntime's {_NAMES[gpu[0]]} provider did not start on this machine"
            if device == "cuda" or precision == "fp16":
                raise EngineUnavailable(failed)
            on, notes = "CPU", (f"runs on the CPU, since {failed}",)
        self.info = describe(
            model,
            backend="onnxruntime",
            precision=precision,
            device=on,
            version=version,
            outputs={output.name for output in self._session.get_outputs()},
            started=started,
            notes=notes,
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

    def _open(self, onnxruntime: Any, graph: Path, providers: list[Any]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = processor.usable_cores()
        try:
            session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
            session.disable_fallback()  # after a failed run it would go on elsewhere, under the same name
            return session
        except self._errors as error:
            raise EngineUnavailable(f"onnxruntime cannot open {graph.name}: {error}") from error


def _gpu(available: Sequence[str], precision: str, device: Device) -> tuple[str, str] | None:
    """The GPU provider to use and the GPU's name, None for the CPU; raises EngineUnavailable for what must be there."""
    wanted = _TENSORRT if precision == "fp16" else _CUDA
    required = precision == "fp16" or device == "cuda"
    if device == "cpu" and required:
        raise EngineUnavailable("onnxruntime runs this graph in fp32 on a CPU; fp16 needs the TensorRT provider")
    if device == "cpu" or (wanted not in available and not required):
        return None
    if wanted not in available:
        raise EngineUnavailable(
            f"this onnxruntime has no {_NAMES[wanted]} provider; onnxruntime-gpu has one, and must stand in "
            'the place of onnxruntime, not beside it (docs/performance.md, "On an NVIDIA GPU")'
        )
    try:
        return wanted, cuda.first_gpu().name  # asked first: a provider without a driver may end the process
    except EngineUnavailable as error:
        if required:
            raise EngineUnavailable(f"onnxruntime's {_NAMES[wanted]} provider cannot start: {error}") from error
        return None


def _refuse_unverified(folder: Path, model: ModelFiles, *, version: str, device: str) -> None:
    """Raise EngineRefused unless a verdict of these weights, this version and this device accepts FP16."""
    found = verdicts.read(folder) or {}
    facts = {"model_sha256": model.sha256, "runtime_version": version, "device": device}
    if found.get("passed") is not True or any(found.get(name) != value for name, value in facts.items()):
        raise EngineRefused(
            "onnxruntime in fp16 lets TensorRT choose what runs in FP16, and was not verified here; `python -m export "
            f"verify{model.option} --engine onnxruntime --precision fp16 --images FOLDER` does it"
        )


def _cache_name(model: ModelFiles, *, version: str, gpu: str) -> str:
    """A folder for these weights, version and GPU: the provider names plans by the graph, which all models share."""
    return f"{model.sha256[:12]}-{version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).strip('-')}"


def _providers(gpu: tuple[str, str] | None, precision: str, cache: Path, sizes: tuple[int, int, int]) -> list[Any]:
    """Providers with their options, best first; sizes are those of one image."""
    if gpu is None:
        return [_CPU]
    # TF32 would leave the FP32 parity bound.
    on_cuda = (_CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    if gpu[0] == _CUDA:
        return [on_cuda, _CPU]
    cache.mkdir(parents=True, exist_ok=True)
    of_image = "x".join(map(str, sizes))
    options = {
        # Without a range of batches a plan is built anew for every batch that leaves what was seen, within a run.
        "trt_profile_min_shapes": f"images:1x{of_image}",
        "trt_profile_opt_shapes": f"images:1x{of_image}",
        "trt_profile_max_shapes": f"images:{BATCH_MAX}x{of_image}",
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_layer_norm_fp32_fallback": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }
    return [(_TENSORRT, options), on_cuda, _CPU]


def _errors() -> tuple[type[Exception], ...]:
    # ONNX Runtime's own exceptions have no common base below Exception.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)
