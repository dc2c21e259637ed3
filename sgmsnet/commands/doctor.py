"""`doctor`: what this machine offers, which engines work on it and, with --measure, how fast; imports no runtime."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from engines import artefacts, cuda, measure, processor, ranked, select
from engines.artefacts import Artefact
from engines.base import Availability, EngineUnavailable
from engines.ranked import Measured
from sgmsnet.checkpoint import WeightsError, find
from sgmsnet.commands.jetson import facts as jetson_facts

PACKAGES = (
    *("numpy", "scipy", "pillow", "pydicom", "safetensors", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("torch", "tensorrt", "tensorrt-rtx-cu13", "tritonclient", "onnx", "gradio"),
)


@dataclass(frozen=True)
class Report:
    """Everything doctor says; model_error stands in place of the model's facts."""

    python: str
    platform: str
    jetson: str | None
    cpu_flags: tuple[str, ...]
    gpu: str
    """Name, compute capability and driver of the first NVIDIA GPU, or why there is none."""
    memory_gib: float | None
    packages: dict[str, str | None]
    model: str
    model_file: str | None
    model_sha256: str | None
    model_error: str | None
    engines: tuple[Availability, ...]
    jetson_facts: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    """What --measure found of this model on this machine, now or before."""
    artefacts: tuple[Artefact, ...] = ()
    """What engines/built holds of this model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of doctor."""
    parser.add_argument("--model", default="cxr", metavar="NAME|FILE", help="the model to look for (default: cxr)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--measure", action="store_true", help="time every engine in a process of its own; `auto` takes that order"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if at least one engine works, else 1."""
    if args.measure:
        _measure(args.model)
    report = examine(args.model)
    print(json.dumps(asdict(report), indent=2) if args.json else as_text(report))
    return 0 if any(engine.available for engine in report.engines) else 1


def _measure(model: str) -> None:
    """Measure and keep the order; what cannot be kept or found is said in a line."""
    try:
        files = find(model)
        found = measure.measure(files, report=lambda name: print(f"Measuring {name}", file=sys.stderr, flush=True))
        print(f"Kept in {ranked.write(files, found)}", file=sys.stderr)
    except WeightsError:
        return  # the report says it
    except OSError as error:
        print(f"The order could not be kept: {error}", file=sys.stderr)


def examine(model: str) -> Report:
    """Look at the machine, the model and the engines; never raises for what is missing."""
    engines: tuple[Availability, ...] = ()
    measured: tuple[Measured, ...] = ()
    held: tuple[Artefact, ...] = ()
    file = sha256 = problem = None
    try:
        files = find(model)
    except WeightsError as error:
        problem = str(error)
    else:
        file, sha256 = str(files.weights), files.sha256
        measured = ranked.read(files)
        engines = tuple(select.probe(files, known=measured))
        held = artefacts.held(files)
    packages, jetson = {name: _version(name) for name in PACKAGES}, jetson_release()
    return Report(
        python=platform.python_version(),
        platform=platform.platform(),
        jetson=jetson,
        cpu_flags=processor.flags(),
        gpu=gpu(),
        memory_gib=memory_gib(),
        packages=packages,
        model=model,
        model_file=file,
        model_sha256=sha256,
        model_error=problem,
        engines=engines,
        measured=measured,
        artefacts=held,
        jetson_facts=tuple(jetson_facts(packages, can_import_tensorrt=find_spec("tensorrt") is not None))
        if jetson
        else (),
    )


def as_text(report: Report) -> str:
    """The report for a person, one fact a line."""
    memory = "unknown" if report.memory_gib is None else f"{report.memory_gib:.1f} GiB"
    packages = ", ".join(f"{name} {version}" for name, version in report.packages.items() if version)
    absent = ", ".join(name for name, version in report.packages.items() if not version)
    lines = [
        f"Python     {report.python} ({sys.executable})",
        f"Platform   {report.platform}",
        *([f"Jetson     {report.jetson}"] if report.jetson else []),
        *(f"           {fact}" for fact in report.jetson_facts),
        f"CPU        {', '.join(report.cpu_flags) or 'no flags of interest known'}",
        f"GPU        {report.gpu}",
        f"Memory     {memory}",
        f"Packages   {packages}",
        f"Not there  {absent or 'none'}",
        f"Model      {_model_line(report)}",
    ]
    built = [f"  {one.runtime}-{one.precision}: {one.state}" for one in report.artefacts]
    if built:
        built.insert(0, "In engines/built")
    return "\n".join([*lines, "Engines, best first", *_engine_lines(report), *built])


def _model_line(report: Report) -> str:
    return report.model_error or f"{report.model}, {report.model_file}, SHA-256 {report.model_sha256}"


def _engine_lines(report: Report) -> list[str]:
    if not report.engines:
        return ["  not looked for, since there is no model to open"]
    return [f"  {e.name:<13} {_state(e, report.measured)}" for e in report.engines]


def _state(engine: Availability, measured: tuple[Measured, ...]) -> str:
    version = f" {engine.version}" if engine.version else ""
    if not engine.available:
        return f"not available{version}: {engine.reason}"
    times = [f", {one.median_ms:.1f} ms an image in {one.precision}" for one in measured if one.name == engine.name]
    return f"available{version}{times[0] if times else ''}"


def gpu(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The first NVIDIA GPU in a line, with the driver's version where the system tells it; else "none" and why."""
    try:
        found = cuda.first_gpu()
    except EngineUnavailable as error:
        return f"none: {error}"
    driver = re.search(r"\d+(\.\d+)+", _text(path))
    return f"{found.name}, compute capability {found.compute_capability}, driver {driver[0] if driver else 'unknown'}"


def memory_gib(path: Path = Path("/proc/meminfo")) -> float | None:
    """The machine's memory in GiB, None where the system does not say."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key == "MemTotal":
            return int(value.split()[0]) / 2**20  # given in KiB
    return None


def jetson_release(path: Path = Path("/etc/nv_tegra_release")) -> str | None:
    """The Linux for Tegra release of a Jetson, None elsewhere."""
    return _text(path).split("\n")[0].lstrip("# ").strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
