"""What files and the driver tell of an engine before it is opened; imports no runtime and runs nothing.

It answers `doctor` and the page. An engine that opens checks the same for itself, and more.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from engines import cuda, manifest, verdicts
from engines.base import EngineRefused, EngineUnavailable
from engines.manifest import BUILT
from engines.plans import FittingPlan, Runtime, first_plan, plan_folder
from sgmsnet.checkpoint import ModelFiles

_CUDA_PYTHON = ("cuda-bindings", "cuda-python")
_BY_ITSELF = {"openvino": ("bf16", "fp32"), "onnxruntime": ("fp32",), "pytorch": ("fp16", "fp32")}
"""Precisions that an engine takes unasked, best first; one that has a verdict is one that this machine has."""


def plan(model: ModelFiles, runtime: Runtime, version: str | None = None) -> None:
    """Raise EngineUnavailable unless a plan fits, is whole and did not fail, and CUDA can be reached from Python.

    `version` is the installed runtime's, where that is known; plans are of one version only.
    """

    def check(plan: FittingPlan) -> None:
        if version is not None:
            manifest.check_version(plan.manifest, version)
        manifest.check_artefact(plan.folder, plan.manifest)
        found = verdicts.read(plan.folder) or {}
        same = (found.get("model_sha256"), found.get("runtime_version"), found.get("device"))
        if same == (model.sha256, plan.manifest.runtime_version, plan.gpu.name) and found.get("passed") is False:
            raise EngineRefused(f"{runtime} in {plan.manifest.precision} {verdicts.reason(found)}")

    first_plan(model, runtime, check, built=BUILT)
    if not any(_installed(name) for name in _CUDA_PYTHON):
        raise EngineRefused("the package cuda-python is not installed")


def verdict(model: ModelFiles, name: str, version: str | None) -> None:
    """Raise EngineRefused where the engine failed verification here in the precision that it takes unasked."""
    for precision in _BY_ITSELF.get(name, ()):
        found = verdicts.read(plan_folder(BUILT, Path(model.name).name, name, precision))
        if found is None or found.get("model_sha256") != model.sha256:
            continue
        # A runtime's own version may say more than its package's ("2026.4.0-22959-...").
        if str(found.get("runtime_version")).partition("-")[0] != version:
            continue
        if not _on_this(str(found.get("device")), name):
            continue
        if found.get("passed") is False:
            raise EngineRefused(f"{name} in {precision} {verdicts.reason(found)}")
        return


def _on_this(device: str, name: str) -> bool:
    """Whether a verdict's device is the one that the engine would take now."""
    try:
        gpu = None if name == "openvino" else cuda.first_gpu().name
    except EngineUnavailable:
        gpu = None
    return device.startswith("CPU") if gpu is None else gpu in device


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
