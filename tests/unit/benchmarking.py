"""Hand-made machines and measurements for the benchmark. No assertions."""

from __future__ import annotations

from export.bench_engines import Cold
from export.machine import Disturbance, Machine

ROW_KEYS = {
    *("engine", "precision", "device", "batch", "p50_ms", "p95_ms", "p99_ms", "images_per_s", "load_ms"),
    *("first_ms", "peak_mb", "speedup_over_pytorch"),
}
QUIET, LOUD = Disturbance(3.0, "over 1 s"), Disturbance(143.4, "over 1 s")
MACHINE = Machine(
    cpu="Example CPU",
    cores=2,
    cpu_flags=("amx_bf16",),
    memory_gib=15.5,
    load_average=0.25,
    git_revision=None,
    python="3.11.1",
    date="2026-01-02T03:04:05+00:00",
)


def cold(engine: str, precision: str) -> Cold:
    return Cold(engine=engine, precision=precision, load_ms=500.0, first_ms=50.0, peak_mb={1: 300.0, 4: None})
