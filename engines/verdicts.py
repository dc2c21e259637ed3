"""What verification found of an engine on this machine, kept in engines/built; what failed is not used.

Not here: comparing (export/verify.py), and the manifest of an artefact (manifest.py), which gets the figures too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base import EngineInfo, EngineRefused
from engines.manifest import BUILT
from engines.plans import plan_folder

FILE_NAME = "parity.json"
_SAME = ("model_sha256", "runtime_version", "device")
_log = logging.getLogger(__name__)


def write(folder: Path, parity: Mapping[str, Any]) -> Path:
    """Write export.verify.Parity as a dictionary into MODEL/RUNTIME-PRECISION; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(dict(parity), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def read(folder: Path) -> dict[str, Any] | None:
    """What was written into MODEL/RUNTIME-PRECISION; None where there is nothing, or nothing that can be read."""
    path = folder / FILE_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read and is left aside: %s", path, error)
        return None
    return found if isinstance(found, dict) else None


def of(info: EngineInfo, *, built: Path = BUILT) -> dict[str, Any] | None:
    """What is known of this very engine, model and device; None for one that was never verified so."""
    found = read(plan_folder(built, Path(info.model).name, info.backend, info.precision))
    if found is None or any(found.get(name) != getattr(info, name) for name in _SAME):
        return None
    return found


def holds(folder: Path, figures: Mapping[str, Any]) -> bool:
    """Whether MODEL/RUNTIME-PRECISION passed before, on the weights, version and device that the figures are of."""
    found = read(folder) or {}
    return found.get("passed") is True and all(found.get(name) == figures[name] for name in _SAME)


def refuse_failed(info: EngineInfo, *, built: Path = BUILT) -> None:
    """Raise EngineRefused where this very engine, model and device failed verification here; else do nothing."""
    found = of(info, built=built)
    if found is not None and found.get("passed") is False:
        raise EngineRefused(f"{info.backend} in {info.precision} {reason(found)}")


def reason(parity: Mapping[str, Any]) -> str:
    """Why a verification failed, as the second half of a sentence."""
    refused = parity.get("refused")
    said = "; ".join(map(str, refused)) if isinstance(refused, (list, tuple)) else ""
    return "did not give PyTorch's answer when it was verified" + (f": {said}" if said else "")


def summary(parity: Mapping[str, Any] | None) -> str:
    """A verdict in a few words, for a list."""
    if parity is None:
        return "not verified"
    if parity.get("passed") is False:
        return reason(parity)
    images = parity.get("images")
    if parity.get("passed"):
        return f"verified on {images} images"
    verdict = str(parity.get("verdict", ""))
    return f"{images} images, too few to judge" if not verdict or "too few" in verdict else f"not judged: {verdict}"
