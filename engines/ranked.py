"""The order of engines that `doctor --measure` found on this machine, kept in the user's cache; measures nothing.

A file that is damaged, or of another processor, package version or model, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engines import artefacts, cuda, processor
from engines.base import EngineUnavailable
from engines.manifest import BUILT
from engines.plans import DISTRIBUTIONS
from sgmsnet.checkpoint import ModelFiles

_FORMAT = 1
_MOST_ENTRIES = 32
_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    *(name for names in DISTRIBUTIONS.values() for name in names),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine, in a process of its own: how fast it is, or why it did not run."""

    name: str
    precision: str | None
    median_ms: float | None
    """Of one image, over all rounds; None for an engine that did not run."""
    load_ms: float | None
    reason: str | None


def cache_file() -> Path:
    """Where rankings are kept: sgmsnet/ranking.json in the user's cache folder."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "sgmsnet", "ranking.json")
    if sys.platform == "win32" and (folder := os.environ.get("LOCALAPPDATA")):
        return Path(folder, "sgmsnet", "ranking.json")
    return Path.home() / ".cache" / "sgmsnet" / "ranking.json"


def key(model: ModelFiles) -> str:
    """What a measurement holds for: processor, cores, GPU, versions of Python and runtimes, weights and artefacts."""
    facts = {
        "cpu": _processor(),
        "cores": processor.usable_cores(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "model": model.sha256,
        "artefacts": artefacts.hashes(model, built=BUILT),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read(model: ModelFiles) -> tuple[Measured, ...]:
    """What was measured of this model on this machine, fastest first, those that failed last; empty when unknown."""
    try:
        entry = _entries().get(key(model), [])
        return tuple(_checked(values) for values in entry)
    except (TypeError, ValueError) as error:
        _log.info("the ranking in %s is left aside: %s", cache_file(), error)
        return ()


def write(model: ModelFiles, measured: Sequence[Measured]) -> Path:
    """Keep a measurement beside those of other models; returns the file. Raises OSError where it cannot be written."""
    try:
        entries = _entries()
    except ValueError:
        entries = {}
    entries.pop(key(model), None)
    kept = dict(list(entries.items())[-(_MOST_ENTRIES - 1) :])
    kept[key(model)] = [asdict(one) for one in sorted(measured, key=_order)]
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps({"format": _FORMAT, "machines": kept}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def reorder(names: Sequence[str], measured: Sequence[Measured]) -> tuple[str, ...]:
    """Names with those that were measured in the order of their speed; the others keep their places."""
    fast = [one.name for one in measured if one.median_ms is not None and one.name in names]
    following = iter(fast)
    return tuple(next(following) if name in fast else name for name in names)


def _order(one: Measured) -> tuple[bool, float]:
    return one.median_ms is None, one.median_ms or 0.0


def _entries() -> dict[str, Any]:
    """Measurements by key; empty without a file, ValueError for one that is not ours."""
    try:
        values = json.loads(cache_file().read_text(encoding="utf-8"))
    except OSError:
        return {}
    if not isinstance(values, dict) or values.get("format") != _FORMAT or not isinstance(values.get("machines"), dict):
        raise ValueError("it is not a ranking of this format")
    return dict(values["machines"])


def _checked(values: Mapping[str, Any]) -> Measured:
    one = Measured(**values)
    for number in (one.median_ms, one.load_ms):
        if number is not None and (not isinstance(number, (int, float)) or not 0 <= number < float("inf")):
            raise ValueError(f"{number!r} is no time")
    if not isinstance(one.name, str) or not isinstance(one.reason, (str, type(None))):
        raise ValueError("a name or a reason is no text")
    if one.median_ms is None and not one.reason:
        raise ValueError(f"{one.name} has neither a time nor a reason")
    return one


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(known)) or platform.processor() or platform.machine()


def _gpu() -> str | None:
    try:
        return cuda.first_gpu().name
    except EngineUnavailable:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
