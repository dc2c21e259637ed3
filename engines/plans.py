"""Which TensorRT plan fits a model and this machine; opens none and imports no runtime.

Not here: whether the plan's bytes are whole and can be opened, which takes longer (tensorrt_engine.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines import cuda, manifest
from engines.base import EngineUnavailable
from engines.manifest import BUILT, Manifest, ManifestError
from sgmsnet.checkpoint import ModelFiles

Runtime = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module of each runtime."""
PRECISIONS = ("fp16", "fp32")


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
    if precision not in (None, *PRECISIONS):
        raise EngineUnavailable(f"{runtime} runs plans in {', '.join(PRECISIONS)}, not {precision}")
    gpu = cuda.first_gpu()
    for candidate in (precision,) if precision else PRECISIONS:
        folder = plan_folder(built, model.name, runtime, candidate)
        if folder.is_dir():
            try:
                return FittingPlan(folder, _checked(folder, model, runtime, gpu), gpu)
            except ManifestError as error:
                raise EngineUnavailable(f"{error}; `{build_command(runtime)}` builds it again") from error
    raise EngineUnavailable(f"no {runtime} plan was built for {model.name}; `{build_command(runtime)}` builds one")


def plan_folder(built: Path, name: str, runtime: str, precision: str) -> Path:
    """BUILT/MODEL/RUNTIME-PRECISION; raises EngineUnavailable for a model's name that is a path."""
    if Path(name).name != name:
        raise EngineUnavailable(f"the model's name {name!r} cannot name a folder")
    return built / name / f"{runtime}-{precision}"


def build_command(runtime: Runtime) -> str:
    """What a person types to get a plan."""
    return "python -m export tensorrt" + (" --rtx" if runtime == "tensorrt-rtx" else "")


def _checked(folder: Path, model: ModelFiles, runtime: Runtime, gpu: cuda.Gpu) -> Manifest:
    made = manifest.read(folder)
    if (made.model, f"{made.runtime}-{made.precision}") != (model.name, folder.name):
        raise ManifestError(f"the manifest in {folder} is of {made.model}, {made.runtime}, {made.precision}")
    manifest.check_model(made, weights_sha256=model.sha256)
    manifest.check_machine(made, gpu_name=gpu.name, compute_capability=gpu.compute_capability)
    return made
