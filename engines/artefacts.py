"""Which built OpenVINO artefact fits a model and the runtime here; opens none and imports no runtime.

Not here: TensorRT plans (plans.py), and making artefacts (`python -m export openvino`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engines import manifest
from engines.base import EngineUnavailable
from engines.manifest import BUILT, ManifestError
from engines.plans import plan_folder
from sgmsnet.checkpoint import ModelFiles

RUNTIME = "openvino"
NEEDS_PARITY = ("int8",)
"""Precisions that change what is computed so far that only a verified artefact is opened."""


def build_command(precision: str) -> str:
    """What a person types to get an artefact."""
    return f"python -m export openvino --precision {precision}"


def fitting_artefact(
    model: ModelFiles, precision: str, *, version: str, built: Path = BUILT, unverified: bool = False
) -> Path | None:
    """The graph built for this model and precision, None where none was built.

    Raises EngineUnavailable, with the reason, for one that is damaged, of other weights or another version of the
    runtime, or that did not pass verification, which `unverified` leaves out of account.
    """
    folder = plan_folder(built, Path(model.name).name, RUNTIME, precision)
    if not (folder / manifest.FILE_NAME).is_file():
        return None
    try:
        made = manifest.read(folder)
        if (made.model, f"{made.runtime}-{made.precision}") != (model.name, folder.name):
            raise ManifestError(f"the manifest in {folder} is of {made.model}, {made.runtime}, {made.precision}")
        manifest.check_model(replace(made, parity=None) if unverified else made, weights_sha256=model.sha256)
        if precision in NEEDS_PARITY and made.parity is None and not unverified:
            raise ManifestError(f"the {folder.name} artefact was not verified")
        manifest.check_version(made, version)
        return manifest.check_artefact(folder, made)
    except ManifestError as error:
        raise EngineUnavailable(f"{error}; `{build_command(precision)}` builds it again") from error
