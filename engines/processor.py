"""What of a CPU decides how fast it runs a network."""

from __future__ import annotations

import os
from pathlib import Path

from engines.base import EngineUnavailable

FLAGS = (
    *("avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)
"""Matrix and half-precision units."""


def flags(path: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of FLAGS that the first processor has, as Linux tells; empty where the system does not say."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, ARM
            present = set(value.split())
            return tuple(flag for flag in FLAGS if flag in present)
    return ()


def usable_cores() -> int:
    """CPU cores that this process may use: fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for it, as torch tells on every system; raises ImportError without torch.

    Others emulate it: on an AMD EPYC with AVX2 a training step took ten times as long as in FP32.
    """
    import torch

    return any(have for name, have in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def multiplies_int8() -> bool:
    """False of an x86 processor that is known to have neither VNNI nor AMX.

    OpenVINO 2026.4 takes INT8 there too, no faster than FP32; and in networks with 24 channels, say, its answers
    changed from run to run (AMD EPYC, AVX2).
    """
    found = flags()
    return "avx2" not in found or bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(found))


def require_int8() -> None:
    """Raise EngineUnavailable where `multiplies_int8` is false."""
    if not multiplies_int8():
        raise EngineUnavailable("openvino runs int8 on processors with VNNI or AMX, which this one has not")
