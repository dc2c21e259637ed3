"""Verify one engine, or every runtime and artefact that is here, and keep what was found beside the artefacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines import artefacts
from engines.base import Engine, EngineError, EngineRefused, EngineUnavailable
from engines.plans import plan_folder
from engines.select import open_unverified, probe
from export.cases import Case
from export.to_openvino import record
from export.verify import IsTheStandard, verify_cases, verify_reference
from sgmsnet.checkpoint import ModelFiles

Found = dict[str, Any]
"""export.verify.Parity with the verdict, JSON-ready."""


def verified(files: ModelFiles, name: str, precision: str | None, images: Sequence[Case], *, built: Path) -> Found:
    """Verify one engine on X-rays, without any on the stored reference, and keep the verdict in `built`.

    Raises EngineUnavailable and ValueError.
    """
    return _verified(files, open_unverified(name, files, precision=precision, built=built), images, built)


def run(
    files: ModelFiles, images: Sequence[Case], *, report: Callable[[str], None], built: Path
) -> tuple[list[Found], int]:
    """Verify whatever `everything` names; what was found, and 1 where one failed or is here and of no use, else 0.

    report gets a line for each. A runtime that opens one of the artefacts by itself is verified once.
    """
    found: list[Found] = []
    seen: set[tuple[str, str]] = set()
    status = 0
    for name, precision in everything(files, built=built):
        if (name, precision) in seen:
            continue
        called = f"{name}{f' in {precision}' if precision else ''}"
        try:
            engine = open_unverified(name, files, precision=precision, built=built)
        except EngineUnavailable as error:  # what is refused is here and of no use; the rest is not here
            report(f"{called}: not opened, {error}")
            status = 1 if isinstance(error, EngineRefused) else status
            continue
        what = (engine.info.backend, engine.info.precision)
        if what in seen:
            engine.close()
            continue
        seen.add(what)
        try:
            one = _verified(files, engine, images, built)
        except IsTheStandard:
            report(f"{what[0]} in {what[1]}: what the others are compared with, as there is no torch")
            continue
        except (EngineError, ValueError) as error:
            report(f"{called}: not verified, {error}")
            status = 1
            continue
        found.append(one)
        status = 1 if one["passed"] is False else status
        report(f"{what[0]} in {what[1]} on {one['device']}: {_line(one)}")
    return found, status


def everything(files: ModelFiles, *, built: Path) -> list[tuple[str, str | None]]:
    """Name and precision of each runtime that is here, as it opens by itself, and of each artefact of `built`."""
    runtimes = [(entry.name, None) for entry in probe(files, known=()) if entry.available or entry.refused]
    return [*runtimes, *((held.runtime, held.precision) for held in artefacts.held(files, built=built))]


def _verified(files: ModelFiles, engine: Engine, images: Sequence[Case], built: Path) -> Found:
    try:
        parity = verify_cases(files, engine, images) if images else verify_reference(files, engine)
    finally:
        engine.close()
    return record(plan_folder(built, files.name, engine.info.backend, engine.info.precision), parity)


def _line(found: Found) -> str:
    refused = f" ({'; '.join(found['refused'])})" if found["refused"] else ""
    return (
        f"{found['verdict']}{refused}; mask IoU {found['mask_iou_mean']:.4f} (lowest {found['mask_iou_min']:.4f}), "
        f"logits within {found['logit_difference_max']:.2g}, against {found['against']}"
    )
