"""Weights to an OpenVINO artefact with its manifest in engines/built: one self-contained graph, in INT8 if asked for.

INT8 is verified at once and refused out of its bound. Not here: quantising (quantise.py), running (engines).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from engines import manifest as manifests
from engines import processor, verdicts
from engines.artefacts import NEEDS_PARITY, RUNTIME
from engines.base import EngineUnavailable
from engines.graph import usable_graph
from engines.manifest import BUILT, Manifest
from engines.plans import plan_folder
from engines.select import open_unverified
from export import ExportError
from export.cases import Case
from export.to_tensorrt import git_revision, shapes_of
from export.verify import Parity, too_little, verify_cases
from sgmsnet.checkpoint import ModelFiles

GRAPH = "model.onnx"
CALIBRATION_IMAGES = 128
VERIFICATION_IMAGES = 160
_ANY_BATCH = 2**16
Precision = Literal["bf16", "fp16", "int8"]


def build(
    files: ModelFiles,
    *,
    precision: Precision,
    calibration: Sequence[Case] = (),
    verification: Sequence[Case] = (),
    built: Path = BUILT,
    report: Callable[[str], None] = print,
) -> Path:
    """Build BUILT/MODEL/openvino-PRECISION/{model.onnx, manifest.json}; returns the folder.

    INT8 watches the calibration X-rays run. With verification X-rays the artefact is compared with PyTorch FP32, the
    figures stand in the manifest, and ExportError is raised where they are out of bounds: the artefact stays, refused.
    `report` is told the verdict.
    """
    if precision == "int8" and not (calibration and verification):
        raise ExportError("int8 needs X-rays to calibrate with, and others to verify it on")
    version = _version(precision)
    graph = onnx.load(usable_graph(files))
    if precision == "int8":
        from export.quantise import quantise

        report(f"Quantising, watching {len(calibration)} X-rays run")
        graph = quantise(graph, np.stack([case.planes for case in calibration]))
    folder = plan_folder(built, files.name, RUNTIME, precision)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (manifests.FILE_NAME, verdicts.FILE_NAME):  # of the artefact that is about to be replaced
        (folder / name).unlink(missing_ok=True)
    onnx.save(graph, str(folder / GRAPH))
    manifests.write(folder, _manifest(files, precision, folder, graph, version=version))
    if verification:
        report(f"Verifying on {len(verification)} X-rays")
        report(f"Verdict: {check(files, precision, verification, built=built)['verdict']}")
    return folder


def check(files: ModelFiles, precision: str, verification: Sequence[Case], *, built: Path = BUILT) -> dict[str, Any]:
    """Verify an artefact, record the figures and return them; raises ExportError where they are out of its bound."""
    folder = plan_folder(built, files.name, RUNTIME, precision)
    try:
        engine = open_unverified(RUNTIME, files, precision=precision, built=built)
    except EngineUnavailable as error:
        raise ExportError(str(error)) from error
    try:
        parity = verify_cases(files, engine, verification)
    finally:
        engine.close()
    found = record(folder, parity)
    if found["passed"] is False or (precision in NEEDS_PARITY and not found["passed"]):
        raise ExportError(f"{folder}: refused, since {'; '.join([*parity.refused, *too_little(parity)])}")
    return found


def record(folder: Path, parity: Parity) -> dict[str, Any]:
    """Write the figures beside an artefact and into its manifest where there is one, and return them.

    What cannot be judged, being of few images, takes no verdict away that more images gave.
    """
    found = parity.to_dict()
    if found["passed"] is None and verdicts.holds(folder, found):
        return found
    verdicts.write(folder, found)
    if (folder / manifests.FILE_NAME).is_file():
        manifests.record_parity(folder, found)
    return found


def _version(precision: Precision) -> str:
    from engines.openvino_runtime import import_openvino

    try:
        if precision == "int8":
            processor.require_int8()
        return str(import_openvino().__version__)
    except ImportError as error:
        raise ExportError(f"openvino cannot be imported: {error}") from error
    except EngineUnavailable as error:
        raise ExportError(str(error)) from error


def _manifest(files: ModelFiles, precision: str, folder: Path, graph: onnx.ModelProto, *, version: str) -> Manifest:
    return Manifest(
        model=files.name,
        weights_sha256=files.sha256,
        artefact=GRAPH,
        artefact_sha256=manifests.file_sha256(folder / GRAPH),
        opset=next(entry.version for entry in graph.opset_import if not entry.domain),
        inputs=shapes_of(graph.graph.input),
        outputs=shapes_of(graph.graph.output),
        batch_max=_ANY_BATCH,
        classes=files.config.classes,
        thresholds=files.thresholds,
        precision=precision,
        runtime=RUNTIME,
        runtime_version=version,
        gpu_name=None,
        compute_capability=(),
        parity=None,
        git_revision=git_revision(),
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
