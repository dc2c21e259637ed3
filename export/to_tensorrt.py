"""Weights to a TensorRT plan with its manifest in engines/built, built in a child process with progress.

Not here: the calls of the builder (plan.py), and running a plan (engines.tensorrt_engine). Of these ways TensorRT for
RTX's builder is tested, ahead of time and without a GPU; no plan has run on hardware yet.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from engines import manifest as manifests
from engines import verdicts
from engines.base import EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.manifest import BUILT, Manifest
from engines.plans import BATCH_MAX, DISTRIBUTIONS, Runtime, plan_folder
from export import ExportError, capability
from export.jetpack import JETPACKS
from export.plan import PlanRequest, request_text
from sgmsnet.checkpoint import ModelFiles
from sgmsnet.formats import graph_metadata

if TYPE_CHECKING:
    from export.to_onnx import Precision

ROOT = Path(__file__).resolve().parent.parent
WORKSPACE_MB = 1024
GRAPH, PLAN = "model.onnx", "model.plan"
_GRAPHS_IN_MEMORY = 8
"""The builder takes this many times the graph's size: TensorRT for RTX took 423 MB for 57 MB, on a CPU alone."""


def build(
    files: ModelFiles,
    *,
    runtime: Runtime = "tensorrt",
    precision: Precision = "fp16",
    graph: Path | None = None,
    compute_capabilities: Sequence[str] = (),
    workspace_mb: int = WORKSPACE_MB,
    built: Path = BUILT,
    report: Callable[[str], None] = print,
) -> Path:
    """Build BUILT/MODEL/RUNTIME-PRECISION/{model.onnx, model.plan, manifest.json}; returns the folder.

    `graph` is what `export onnx` wrote, of these weights and this precision; without one it is written here, which
    takes torch. Without compute capabilities the plan is for the GPU here. `report` is told each step of progress.
    Raises ExportError when the graph does not fit, when the builder refuses, is killed or has too little memory, or
    when there is no GPU to build for; then what was built before stays as it was.
    """
    check_target(runtime, compute_capabilities)
    gpu = None if compute_capabilities else _gpu_here(runtime)
    version = _installed(runtime)
    folder = plan_folder(built, files.name, runtime, precision)
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was ended
    scratch.mkdir(parents=True)
    try:
        _graph(files, graph, scratch / GRAPH, precision=precision, opset=_largest_opset(runtime, version))
        report(f"Parser: {_capability(scratch / GRAPH, runtime)}")
        check_memory((scratch / GRAPH).stat().st_size, workspace_mb)
        request = PlanRequest(
            runtime=runtime,
            graph=str(scratch / GRAPH),
            plan=str(scratch / PLAN),
            precision=precision,
            workspace_mb=workspace_mb,
            batch_max=BATCH_MAX,
            compute_capabilities=tuple(compute_capabilities),
            timing_cache=str(built / _timing_cache(version, gpu)) if runtime == "tensorrt" and gpu else None,
        )
        version = run_child(request, report=report)
        manifests.write(scratch, _manifest(files, request, version=version, gpu=gpu))
        _put_in_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def check_target(runtime: str, compute_capabilities: Sequence[str]) -> None:
    """Raise ExportError for a compute capability that is none, or that this runtime cannot build for ahead of time."""
    for text in compute_capabilities:
        if not re.fullmatch(r"[0-9]+\.[0-9]", text):
            raise ExportError(f"a compute capability reads as 8.6 does, not {text!r}")
    if compute_capabilities and runtime != "tensorrt-rtx":
        raise ExportError("only TensorRT for RTX (--rtx) builds for a GPU that is not in this machine")


def run_child(request: PlanRequest, *, report: Callable[[str], None]) -> str:
    """Build in a child process; returns the version of its TensorRT. Raises ExportError with the child's reason."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as scratch:
        file, errors = Path(scratch, "request.json"), Path(scratch, "stderr")
        file.write_text(request_text(request), encoding="utf-8")
        last = ""
        with (
            errors.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "export.plan", str(file)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            ) as child,
        ):
            assert child.stdout is not None
            for line in child.stdout:
                last = line.strip()
                if not last.startswith("{"):
                    report(last)
        said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if child.returncode < 0:
        raise ExportError(
            f"the system ended the TensorRT builder (signal {-child.returncode}), most often for want of memory: "
            "close programs, add swap, or give --workspace-mb a smaller number"
        )
    if child.returncode:
        raise ExportError(said[-1] if said else "the TensorRT builder failed without a reason")
    return str(json.loads(last)["runtime_version"])


def check_graph(graph: Path, files: ModelFiles, *, precision: str, largest_opset: int) -> None:
    """Raise ExportError unless a graph was exported from these weights in this precision, and can be read."""
    if not graph.is_file():
        raise ExportError(f"there is no {graph}; `python -m export onnx --precision {precision}` writes one")
    said = graph_metadata(graph)
    if said.get("weights_sha256") != files.sha256:
        raise ExportError(f"{graph.name} was not exported from the weights of {files.name} here")
    if (found := said.get("precision", "fp32")) != precision:
        raise ExportError(f"{graph.name} is in {found}, and a plan in {precision} was asked for")
    if any(0 in shape for shape in shapes_of(onnx.load(graph, load_external_data=False).graph.output).values()):
        raise ExportError(f"{graph.name} does not state the sizes of its outputs: export it again with this version")
    if (opset := _opset_of(graph)) > largest_opset:
        raise ExportError(f"{graph.name} has opset {opset}, and the TensorRT here reads up to {largest_opset}")


def check_memory(graph_bytes: int, workspace_mb: int) -> None:
    """Raise ExportError where the free memory is certainly too little; where it is unknown, do nothing."""
    needed = (_GRAPHS_IN_MEMORY * graph_bytes >> 20) + workspace_mb
    available = available_mb()
    if available is not None and available < needed:
        raise ExportError(
            f"building needs about {needed} MB of memory and {available} MB are free: close programs, add swap, or "
            "give --workspace-mb a smaller number"
        )


def available_mb(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Free memory and swap in MB, which on a Jetson the GPU shares; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return sum(int(lines[key].split()[0]) for key in ("MemAvailable", "SwapFree")) >> 10
    except (OSError, KeyError, ValueError):
        return None


def _capability(graph: Path, runtime: str) -> str:
    """The parser's word in one line; what it refuses, the builder will refuse too, and say so."""
    try:
        unread = capability.inspect(graph, runtime=runtime)
    except RuntimeError as error:
        return f"not asked ({error})"
    return "; ".join(f"does not read {reason}" for reason in unread) or "reads every node"


def _graph(files: ModelFiles, given: Path | None, target: Path, *, precision: Precision, opset: int) -> None:
    if given is None:
        try:
            from export import to_onnx  # and torch with it
        except ModuleNotFoundError as error:
            raise ExportError(
                f"writing the graph needs {error.name}, which is not here: `python -m export onnx{files.option} "
                f"--precision {precision}` writes it on another machine, and --graph takes it"
            ) from None
        to_onnx.export(files, target, opset=opset, precision=precision)
    else:
        check_graph(given, files, precision=precision, largest_opset=opset)
        onnx.save(onnx.load(given), target)  # with its weights, which cxr.onnx leaves in the file beside it


def _put_in_place(scratch: Path, folder: Path) -> None:
    """Replace what was built before, its verdict too; ended half-way, this leaves a folder without a manifest."""
    folder.mkdir(exist_ok=True)
    for name in (manifests.FILE_NAME, verdicts.FILE_NAME):
        (folder / name).unlink(missing_ok=True)
    for name in (GRAPH, PLAN, manifests.FILE_NAME):
        (scratch / name).replace(folder / name)


def _timing_cache(version: str, gpu: Gpu) -> str:
    """File name; what was measured holds for one TensorRT on one GPU only, so each has its own."""
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu.name} {gpu.compute_capability} {gpu.multiprocessors}")
    return f"tensorrt-{version}-{kind}.timing-cache"


def _gpu_here(runtime: str) -> Gpu:
    try:
        return first_gpu()
    except EngineUnavailable as error:
        advice = "--compute-capability" if runtime == "tensorrt-rtx" else "--rtx and --compute-capability"
        raise ExportError(f"{error}; to build for a GPU elsewhere give {advice}") from error


def _installed(runtime: Runtime) -> str:
    for distribution in DISTRIBUTIONS[runtime]:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    raise ExportError(f"the package {DISTRIBUTIONS[runtime][0]} is not installed; requirements-gpu.txt names it")


def _largest_opset(runtime: str, version: str) -> int:
    is_old = runtime == "tensorrt" and int(version.split(".")[0]) < 10
    return JETPACKS["6.0" if is_old else "6.2"].largest_opset


def _opset_of(graph: Path) -> int:
    return max(entry.version for entry in onnx.load(graph, load_external_data=False).opset_import if not entry.domain)


def _manifest(files: ModelFiles, request: PlanRequest, *, version: str, gpu: Gpu | None) -> Manifest:
    graph = onnx.load(request.graph, load_external_data=False).graph
    return Manifest(
        model=files.name,
        weights_sha256=files.sha256,
        artefact=PLAN,
        artefact_sha256=manifests.file_sha256(Path(request.plan)),
        opset=_opset_of(Path(request.graph)),
        inputs=shapes_of(graph.input),
        outputs=shapes_of(graph.output),
        batch_max=request.batch_max,
        classes=files.config.classes,
        thresholds=files.thresholds,
        precision=request.precision,
        runtime=request.runtime,
        runtime_version=version,
        gpu_name=gpu.name if gpu else None,
        multiprocessors=gpu.multiprocessors if gpu else None,
        compute_capability=(gpu.compute_capability,) if gpu else request.compute_capabilities,
        parity=None,
        git_revision=git_revision(),
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def shapes_of(values: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """Names to shapes, with -1 for the free batch."""
    return {value.name: (-1, *(side.dim_value for side in value.type.tensor_type.shape.dim[1:])) for value in values}


def git_revision() -> str | None:
    """Of the checkout; None for an installed copy."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # an installed copy, or no git
        return None
    return done.stdout.strip()
