"""What a measurement was made on: processor, memory, git revision, and how busy other processes keep the machine.

Not here: what the machine can run, which is `python -m sgmsnet doctor`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from engines import processor
from sgmsnet.commands.doctor import memory_gib

ROOT = Path(__file__).resolve().parents[1]
BUSY_PERCENT = 20.0
"""Of one core: other processes that use more disturb a measurement."""

_PROC = Path("/proc")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # columns of /proc/stat, man 5 proc; those after _STEAL are counted twice there
_USER_TIME, _SYSTEM_TIME = 11, 12  # columns of /proc/self/stat after the process's name


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine, the code and the moment of a measurement."""

    cpu: str
    cores: int
    """Logical cores that this process may use."""
    cpu_flags: tuple[str, ...]
    """Those of AMX and AVX-512 BF16: they decide what BF16 and INT8 gain."""
    memory_gib: float | None
    load_average: float | None
    """Of the last minute; None where the system has none."""
    git_revision: str | None
    """With "-dirty" when the working tree differs from it; None without git or commit."""
    python: str
    date: str
    """UTC, ISO 8601."""

    def line(self) -> str:
        """Everything in one line for a person."""
        memory = "memory unknown" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB"
        load = "load average unknown" if self.load_average is None else f"load average {self.load_average:.2f}"
        flags = " ".join(self.cpu_flags) or "neither AMX nor AVX-512 BF16"
        revision = f"git {self.git_revision or 'unknown'}"
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return ", ".join([self.cpu, cores, flags, memory, load, f"Python {self.python}", revision, self.date])


@dataclass(frozen=True)
class Disturbance:
    """CPU use of other processes in percent of one core, None where the system does not say, and how it is known."""

    percent: float | None
    source: str

    @property
    def busy(self) -> bool:
        """Whether it would show in a measurement; unknown counts as quiet."""
        return self.percent is not None and self.percent > BUSY_PERCENT

    def sentence(self) -> str:
        """For a person, without a full stop."""
        if self.percent is None:
            return self.source
        return f"other processes use {self.percent:.0f} % of one core ({self.source})"


def examine() -> Machine:
    """Look at this machine; what it does not tell stays None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Machine(
        cpu=cpu_model(),
        cores=processor.usable_cores(),
        cpu_flags=tuple(flag for flag in processor.flags() if flag.startswith("amx") or flag == "avx512_bf16"),
        memory_gib=memory_gib(),
        load_average=load,
        git_revision=_git_revision(),
        python=platform.python_version(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def disturbance(*, seconds: float = 1.0) -> Disturbance:
    """Watch the other processes for some seconds; where only a load average is known, take that."""
    if (_PROC / "stat").is_file():
        return Disturbance(_watch(seconds), f"over {seconds:g} s")
    if hasattr(os, "getloadavg"):
        return Disturbance(os.getloadavg()[0] * 100, "load average of the last minute, this process included")
    return Disturbance(None, "this system does not say whether other processes run")


def cpu_model(path: Path = _PROC / "cpuinfo") -> str:
    """The processor's name; on boards that have none there, the board's."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    board = _text(_PROC / "device-tree/model").strip("\0\n ")
    return board or platform.processor() or platform.machine() or "unknown processor"


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far in MB (10^6 bytes); None where the system does not say."""
    for line in _text(_PROC / "self/status").splitlines():
        # Not getrusage: Linux lets a child start with the peak of its parent there.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _watch(seconds: float) -> float:
    """Percent of one core that others use, stolen time of a virtual machine included."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    start, all_before, own_before = time.perf_counter(), _busy_ticks(), _own_ticks()
    time.sleep(seconds)
    all_after, own_after, end = _busy_ticks(), _own_ticks(), time.perf_counter()
    others = (all_after - all_before) - (own_after - own_before)
    return max(0.0, 100 * others / ticks_per_s / (end - start))


def _busy_ticks(path: Path = _PROC / "stat") -> int:
    """Ticks that all cores have worked since the start of the machine."""
    columns = [int(value) for value in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    return sum(ticks for place, ticks in enumerate(columns[: _STEAL + 1]) if place not in (_IDLE, _IOWAIT))


def _own_ticks(path: Path = _PROC / "self/stat") -> int:
    """Ticks that this process has worked; its name, in brackets, may hold anything, so the rest counts."""
    columns = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(columns[_USER_TIME]) + int(columns[_SYSTEM_TIME])


def _git_revision() -> str | None:
    # --match with nothing: the hash, never a tag.
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
