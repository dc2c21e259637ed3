"""What engines/built holds for a model, and which OpenVINO artefact fits; opens none and imports no runtime.

Not here: which TensorRT plan fits (plans.py), and making artefacts (`python -m export openvino`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from engines import manifest, verdicts
from engines.base import EngineRefused, EngineUnavailable
from engines.graph import usable_graph
from engines.manifest import BUILT, FailedParityError, ManifestError
from engines.plans import plan_folder
from sgmsnet.checkpoint import ModelFiles

RUNTIME = "openvino"
NEEDS_PARITY = ("int8",)
"""Precisions that change what is computed so far that only a verified artefact is opened."""


class StaleArtefact(EngineRefused):
    """An artefact that is damaged, or of other weights or versions; that says nothing of the graph it was made from."""


@dataclass(frozen=True)
class Artefact:
    """What a folder RUNTIME-PRECISION of engines/built holds: an artefact, a verdict, or both."""

    runtime: str
    precision: str
    verified: bool
    """Whole, of these weights, and within its bound over enough images."""
    state: str
    """For a person: the verdict, or why the artefact is of no use."""


def build_command(model: ModelFiles, precision: str) -> str:
    """What a person types to get an artefact."""
    return f"python -m export openvino{model.option} --precision {precision}"


def runnable_graph(
    model: ModelFiles, precision: str, *, version: str, built: Path = BUILT, unverified: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """The graph that OpenVINO runs, and what a person should know of it: the artefact, or what is beside the weights.

    INT8 runs its artefact alone, and so does what is about to be verified; elsewhere one that does not fit any more, as
    after an upgrade, makes room for the graph it was made from. Raises EngineUnavailable as `fitting_artefact` does.
    """
    try:
        artefact = fitting_artefact(model, precision, version=version, built=built, unverified=unverified)
    except StaleArtefact as error:
        if precision in NEEDS_PARITY or unverified:
            raise
        return usable_graph(model), (f"runs the graph beside the weights: {error}",)
    if artefact is None and precision in NEEDS_PARITY:
        command = build_command(model, precision)
        raise EngineUnavailable(
            f"no openvino artefact in {precision} was built for {model.name}; `{command}` builds one"
        )
    return artefact or usable_graph(model), ()


def fitting_artefact(
    model: ModelFiles, precision: str, *, version: str, built: Path = BUILT, unverified: bool = False
) -> Path | None:
    """The graph built for this model and precision, None where none was built.

    Raises StaleArtefact, with the reason, for one that is damaged, of other weights or another version of the runtime,
    and EngineRefused for one that did not pass verification, which `unverified` leaves out of account.
    """
    folder = plan_folder(built, Path(model.name).name, RUNTIME, precision)
    if not (folder / manifest.FILE_NAME).is_file():
        return None
    again = f"`{build_command(model, precision)}` builds it again"
    try:
        made = manifest.read(folder)
        if (made.model, f"{made.runtime}-{made.precision}") != (model.name, folder.name):
            raise ManifestError(f"the manifest in {folder.name} is of {made.model}, {made.runtime}, {made.precision}")
        manifest.check_model(replace(made, parity=None) if unverified else made, weights_sha256=model.sha256)
        if precision in NEEDS_PARITY and not unverified and not (made.parity and made.parity.get("passed")):
            raise FailedParityError(f"the {folder.name} artefact was not verified")
        manifest.check_version(made, version)
        return manifest.check_artefact(folder, made)
    except FailedParityError as error:
        raise EngineRefused(f"{error}; {again}") from error
    except ManifestError as error:
        raise StaleArtefact(f"{error}; {again}") from error


def held(model: ModelFiles, *, built: Path = BUILT) -> tuple[Artefact, ...]:
    """Everything in BUILT/MODEL, in order of the names; reads every artefact to its end, and never raises."""
    folders = sorted(path for path in (built / Path(model.name).name).glob("*-*") if path.is_dir())
    return tuple(found for folder in folders if (found := _held(folder, model)) is not None)


def hashes(model: ModelFiles, *, built: Path = BUILT) -> dict[str, str | None]:
    """SHA-256 of each artefact in BUILT/MODEL, as its manifest tells, by folder; None where that cannot be read."""
    found: dict[str, str | None] = {}
    for path in sorted((built / Path(model.name).name).glob(f"*/{manifest.FILE_NAME}")):
        try:
            found[path.parent.name] = manifest.read(path.parent).artefact_sha256
        except ManifestError:
            found[path.parent.name] = None
    return found


def _held(folder: Path, model: ModelFiles) -> Artefact | None:
    runtime, _, precision = folder.name.rpartition("-")
    verdict = verdicts.read(folder)
    if verdict is not None and verdict.get("model_sha256") != model.sha256:
        verdict = None
    if not (folder / manifest.FILE_NAME).is_file():
        if verdict is None:
            return None
        return Artefact(runtime, precision, verdict.get("passed") is True, verdicts.summary(verdict))
    try:
        made = manifest.read(folder)
        manifest.check_model(replace(made, parity=None), weights_sha256=model.sha256)
        manifest.check_artefact(folder, made)
    except (ManifestError, OSError) as error:
        return Artefact(runtime, precision, False, str(error))
    parity = made.parity or verdict
    return Artefact(runtime, precision, parity is not None and parity.get("passed") is True, verdicts.summary(parity))
