"""Which TensorRT plan fits a model and this machine; opens none and imports no runtime.

Not here: whether the plan's bytes are whole and can be opened, which takes longer (tensorrt_engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from engines import cuda, manifest
from engines.base import EngineRefused, EngineUnavailable
from engines.manifest import BUILT, Manifest, ManifestError
from sgmsnet.checkpoint import ModelFiles

Runtime = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module of each runtime."""
DISTRIBUTIONS: dict[Runtime, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Python packages, any of which brings the module; the first is the one to name."""
PRECISIONS = ("fp16", "fp32")
BATCH_MAX = 16
"""Largest batch that plans are built for."""
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class FittingPlan:
    """A plan whose manifest fits, and the GPU it is for."""

    folder: Path
    manifest: Manifest
    gpu: cuda.Gpu


def fitting_plan(
    model: ModelFiles, runtime: Runtime, *, precision: str | None = None, built: Path = BUILT
) -> FittingPlan:
    """The plan of the asked precision, or of FP16 before FP32; raises EngineUnavailable when none fits."""
    return first_plan(model, runtime, lambda plan: plan, precision=precision, built=built)


def first_plan(
    model: ModelFiles,
    runtime: Runtime,
    use: Callable[[FittingPlan], _Made],
    *,
    precision: str | None = None,
    built: Path = BUILT,
    unverified: bool = False,
) -> _Made:
    """What `use` makes of the plan of the asked precision, or of the first of FP16 and FP32 that fits.

    `use` refuses a plan with ManifestError where building it again helps, and with EngineUnavailable elsewhere; then
    the next one is tried. `unverified` takes one that failed verification. Raises EngineUnavailable with each reason.
    """
    if precision not in (None, *PRECISIONS):
        raise EngineUnavailable(f"{runtime} runs plans in {', '.join(PRECISIONS)}, not {precision}")
    gpu = cuda.first_gpu()
    refused: dict[str, Exception] = {}
    for candidate in (precision,) if precision else PRECISIONS:
        folder = plan_folder(built, model.name, runtime, candidate)
        if folder.is_dir():
            try:
                return use(FittingPlan(folder, _checked(folder, model, runtime, gpu, unverified=unverified), gpu))
            except (ManifestError, EngineUnavailable) as error:
                refused[candidate] = error
    if not refused:
        command = build_command(runtime, model, precision)
        raise EngineUnavailable(f"no {runtime} plan was built for {model.name}; `{command}` builds one")
    reasons = [str(error) if len(refused) == 1 else f"{name}: {error}" for name, error in refused.items()]
    if any(isinstance(error, ManifestError) for error in refused.values()):
        command = build_command(runtime, model, next(iter(refused)) if len(refused) == 1 else None)
        reasons.append(f"`{command}` builds it again")
    raise EngineRefused("; ".join(reasons)) from next(iter(refused.values()))


def plan_folder(built: Path, name: str, runtime: str, precision: str) -> Path:
    """BUILT/MODEL/RUNTIME-PRECISION; raises EngineUnavailable for a model's name that is a path."""
    if Path(name).name != name:
        raise EngineUnavailable(f"the model's name {name!r} cannot name a folder")
    return built / name / f"{runtime}-{precision}"


def build_command(runtime: Runtime, model: ModelFiles, precision: str | None = None) -> str:
    """What a person types to get a plan."""
    of_runtime = " --rtx" if runtime == "tensorrt-rtx" else ""
    of_precision = f" --precision {precision}" if precision not in (None, PRECISIONS[0]) else ""
    return f"python -m export tensorrt{of_runtime}{model.option}{of_precision}"


def _checked(folder: Path, model: ModelFiles, runtime: Runtime, gpu: cuda.Gpu, *, unverified: bool) -> Manifest:
    made = manifest.read(folder)
    if (made.model, f"{made.runtime}-{made.precision}") != (model.name, folder.name):
        raise ManifestError(f"the manifest in {folder.name} is of {made.model}, {made.runtime}, {made.precision}")
    manifest.check_model(replace(made, parity=None) if unverified else made, weights_sha256=model.sha256)
    manifest.check_machine(
        made, gpu_name=gpu.name, compute_capability=gpu.compute_capability, multiprocessors=gpu.multiprocessors
    )
    return made
