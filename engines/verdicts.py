"""What verification found of an engine on this machine, kept in engines/built; what failed is not used.

Not here: comparing (export/verify.py), and the manifest of an artefact (manifest.py), which gets the figures too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.base import EngineInfo, EngineUnavailable
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


def refuse_failed(info: EngineInfo, *, built: Path = BUILT) -> None:
    """Raise EngineUnavailable where this very engine, model and device failed verification here; else do nothing.

    Nothing is known of an engine that was never verified, or whose file is of another version or is damaged.
    """
    path = plan_folder(built, Path(info.model).name, info.backend, info.precision) / FILE_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read and is left aside: %s", path, error)
        return
    if not isinstance(found, dict) or any(found.get(name) != getattr(info, name) for name in _SAME):
        return
    if found.get("passed") is False:
        raise EngineUnavailable(f"{info.backend} in {info.precision} {reason(found)}")


def reason(parity: Mapping[str, Any]) -> str:
    """Why a verification failed, as the second half of a sentence."""
    refused = parity.get("refused")
    said = "; ".join(map(str, refused)) if isinstance(refused, (list, tuple)) else ""
    return "did not give PyTorch's answer when it was verified" + (f": {said}" if said else "")
