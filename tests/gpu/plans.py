"""Plans of the tiny model for the GPU of this machine, built once a session. Skips where there is no GPU."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path

import pytest

from engines.base import EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.plans import MODULES, Runtime
from export import to_tensorrt
from export.to_onnx import Precision
from sgmsnet.checkpoint import find


def require_gpu(runtime: Runtime) -> Gpu:
    """The GPU here. It is no tool that can be installed, so its absence skips even where everything is required."""
    try:
        gpu = first_gpu()
    except EngineUnavailable as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    if importlib.util.find_spec(MODULES[runtime]) is None:
        pytest.skip(f"{MODULES[runtime]} is not installed on this GPU machine")
    supported = getattr(importlib.import_module(MODULES[runtime]), "ComputeCapability", None)
    if runtime == "tensorrt-rtx" and not hasattr(supported, f"SM{gpu.compute_capability.replace('.', '')}"):
        pytest.skip(f"TensorRT for RTX does not build for {gpu.name}, compute capability {gpu.compute_capability}")
    return gpu


@cache
def planned(weights: Path, runtime: Runtime, precision: Precision) -> Path:
    """The folder of built engines with a plan of these weights, beside them."""
    built = weights.parent / "planned"
    to_tensorrt.build(find(weights), runtime=runtime, precision=precision, built=built, workspace_mb=256)
    return built
