"""What is written beside an artefact that was built, and whether it fits a model and a machine; imports no runtime.

Not here: building, and running. "Manifest" means this file only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
BUILT = Path(__file__).resolve().parent / "built"
"""Artefacts built on this machine: MODEL/RUNTIME-PRECISION/{model.onnx, model.plan, manifest.json}."""
ON_A_GPU = ("tensorrt", "tensorrt-rtx")
"""Runtimes whose artefacts are for certain GPUs."""


class ManifestError(ValueError):
    """An artefact that must not be used, for the reason given in one sentence."""


class FailedParityError(ManifestError):
    """An artefact that did not give PyTorch's answer."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of one artefact, checked on construction; raises ManifestError for values that cannot be."""

    format_version: int = FORMAT_VERSION
    model: str
    weights_sha256: str
    artefact: str
    """File name, in the manifest's folder."""
    artefact_sha256: str
    opset: int
    inputs: Mapping[str, tuple[int, ...]]
    """Shapes by name; -1 is the free batch."""
    outputs: Mapping[str, tuple[int, ...]]
    batch_max: int
    classes: tuple[str, ...]
    thresholds: Mapping[str, float]
    precision: str
    runtime: str
    """Name of engines.select.ENGINES."""
    runtime_version: str
    gpu_name: str | None
    """The GPU it was tuned on; None where it was built ahead of time."""
    compute_capability: tuple[str, ...]
    """Those it runs on, for example ("8.6", "8.9"); none for an artefact that runs on a CPU."""
    multiprocessors: int | None = None
    """Of the GPU it was tuned on; None where it was built ahead of time, and in manifests that lack it."""
    parity: Mapping[str, Any] | None
    """export.verify.Parity as a dictionary; None before it was verified."""
    git_revision: str | None
    made_at: str
    """Time in UTC, ISO 8601."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ManifestError(
                f"the manifest has format version {self.format_version}, and this software reads {FORMAT_VERSION}"
            )
        for name in ("weights_sha256", "artefact_sha256"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
                raise ManifestError(f"the manifest's {name} is not a SHA-256")
        if not isinstance(self.artefact, str) or Path(self.artefact).name != self.artefact or not self.artefact:
            raise ManifestError("the manifest's artefact is not the name of a file beside it")
        if not self.outputs or len(self.inputs) != 1:
            raise ManifestError("the manifest does not name one input and the outputs")
        for name, shape in (*self.inputs.items(), *self.outputs.items()):
            if len(shape) < 2 or shape[0] != -1 or min(shape[1:]) < 1:
                raise ManifestError(f"the manifest's shape of {name} is not a free batch and fixed sides: {shape}")
        if not isinstance(self.batch_max, int) or self.batch_max < 1:
            raise ManifestError(f"the manifest's batch_max must be 1 or more, not {self.batch_max}")
        if set(self.thresholds) != set(self.classes):
            raise ManifestError("the manifest's thresholds are not those of its classes")
        if self.runtime in ON_A_GPU and not self.compute_capability:
            raise ManifestError("the manifest names no compute capability")


def write(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest beside its artefact; returns its path."""
    path = folder / FILE_NAME
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def record_parity(folder: Path, parity: Mapping[str, Any]) -> None:
    """Write the figures of export.verify.Parity into a folder's manifest; an artefact that failed is refused from then.

    Raises ManifestError when there is no manifest.
    """
    write(folder, replace(read(folder), parity=dict(parity)))


def read(folder: Path) -> Manifest:
    """Read a folder's manifest; raises ManifestError when there is none or it is not one."""
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ManifestError(f"there is no manifest in {folder.name}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        said = getattr(error, "strerror", None) or error  # without the path, which visitors of a page would read
        raise ManifestError(f"the manifest in {folder.name} cannot be read: {said}") from error
    known = {field.name for field in fields(Manifest)}
    if isinstance(values, dict):
        values.setdefault("multiprocessors", None)  # younger than the format
    if not isinstance(values, dict) or set(values) != known:
        given = set(values) if isinstance(values, dict) else set()
        raise ManifestError(f"the manifest in {folder.name} lacks or has too much: {', '.join(sorted(known ^ given))}")
    try:
        for name in ("inputs", "outputs"):
            values[name] = {key: tuple(int(side) for side in shape) for key, shape in values[name].items()}
        for name in ("classes", "compute_capability"):
            values[name] = tuple(values[name])
        return Manifest(**values)
    except (TypeError, AttributeError) as error:
        raise ManifestError(f"the manifest in {folder.name} has values of the wrong kind: {error}") from error


def check_artefact(folder: Path, manifest: Manifest) -> Path:
    """The artefact's path; raises ManifestError when the file is missing or is another than the manifest's."""
    path = folder / manifest.artefact
    if not path.is_file():
        raise ManifestError(f"the manifest in {folder.name} names {path.name}, which is not there")
    if file_sha256(path) != manifest.artefact_sha256:
        raise ManifestError(f"{folder.name}/{path.name} is damaged or was changed: its SHA-256 is not the manifest's")
    return path


def check_model(manifest: Manifest, *, weights_sha256: str) -> None:
    """Raise ManifestError unless the artefact was made of these weights and did not fail verification."""
    if manifest.weights_sha256 != weights_sha256:
        raise ManifestError(f"the {manifest.runtime} artefact was made of other weights than {manifest.model}'s now")
    if manifest.parity is not None and manifest.parity.get("passed", False) is False:  # None: not judged
        refused = manifest.parity.get("refused")
        said = ": " + "; ".join(map(str, refused)) if isinstance(refused, (list, tuple)) and refused else ""
        raise FailedParityError(
            f"the {manifest.runtime} artefact did not give PyTorch's answer when it was verified{said}"
        )


def check_machine(
    manifest: Manifest, *, gpu_name: str, compute_capability: str, multiprocessors: int | None = None
) -> None:
    """Raise ManifestError unless the artefact is for this GPU."""
    if compute_capability not in manifest.compute_capability:
        built_for = ", ".join(manifest.compute_capability)
        raise ManifestError(
            f"the {manifest.runtime} artefact is for compute capability {built_for}, and {gpu_name} has "
            f"{compute_capability}"
        )
    if manifest.gpu_name not in (None, gpu_name):
        raise ManifestError(f"the {manifest.runtime} artefact was built on {manifest.gpu_name}, and this is {gpu_name}")
    if None not in (manifest.multiprocessors, multiprocessors) and manifest.multiprocessors != multiprocessors:
        raise ManifestError(
            f"the {manifest.runtime} artefact was built on {manifest.multiprocessors} multiprocessors, and this "
            f"{gpu_name} has {multiprocessors}: another module, or another power mode"
        )


def check_version(manifest: Manifest, version: str) -> None:
    """Raise ManifestError unless the artefact was built by this version of its runtime: plans fit no other."""
    if manifest.runtime_version != version:
        raise ManifestError(
            f"the {manifest.runtime} artefact was built by version {manifest.runtime_version}, and {version} is here"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
