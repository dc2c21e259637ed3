"""What a Jetson's owner should know before measuring or asking why: power mode, clocks, packages that do not fit.

Read from files alone, for `doctor`; elsewhere there is nothing to say. Changes no setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

TORCH_INDEX = "https://pypi.jetson-ai-lab.io/jp6/cu126"


def facts(
    packages: Mapping[str, str | None],
    *,
    can_import_tensorrt: bool,
    mode: Path = Path("/var/lib/nvpmodel/status"),
    clocks: Path = Path("/sys/class/devfreq"),
) -> list[str]:
    """Sentences on this Jetson; packages are versions by name, None for what is not installed."""
    found = [power_mode(mode), gpu_clocks(clocks)]
    if not can_import_tensorrt:
        found.append(
            "this environment does not see JetPack's TensorRT: make it with `python3 -m venv --system-site-packages`, "
            "as deploy/jetson/install.sh does"
        )
    torch = packages.get("torch")
    if torch is not None and not is_torch_for_gpus():
        found.append(
            f"torch {torch} is not a build for a Jetson's GPU: the page needs none, and one for JetPack 6 is at "
            f"{TORCH_INDEX}"
        )
    return found


def is_torch_for_gpus() -> bool:
    """Whether the torch here was built with CUDA: its version does not say so, its files do. It is not imported."""
    spec = find_spec("torch")
    folders = spec.submodule_search_locations if spec else None
    return any(Path(folder, "lib", "libtorch_cuda.so").is_file() for folder in folders or ())


def power_mode(path: Path) -> str:
    """The mode that nvpmodel set last, from its status file ("pmode:0000")."""
    text = _text(path)
    found = re.match(r"pmode:\s*(\d+)", text)
    if found is None:
        return "power mode unknown: `sudo nvpmodel -q` shows it"
    number = found[1].lstrip("0") or "0"
    return f"power mode {number} (`sudo nvpmodel -q` names it, `sudo nvpmodel -m N` sets one of /etc/nvpmodel.conf)"


def gpu_clocks(folder: Path) -> str:
    """Whether jetson_clocks holds the GPU at its highest clock, from its devfreq folder."""
    for gpu in sorted(folder.glob("*.gpu")) + sorted(folder.glob("*.gpc*")) + sorted(folder.glob("gpu-gpc-*")):
        lowest, highest = _text(gpu / "min_freq"), _text(gpu / "max_freq")
        if lowest.isdigit() and highest.isdigit():
            low, high = round(int(lowest) / 1e6), round(int(highest) / 1e6)
            if low == high:
                return f"GPU clock held at {high} MHz"
            return f"GPU clock free between {low} and {high} MHz: `sudo jetson_clocks` holds it before measuring"
    return "GPU clocks unknown: `sudo jetson_clocks --show` shows them"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
