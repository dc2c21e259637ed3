"""docs/performance.md from one run of `benchmark`; no figure in it comes from anywhere else."""

from __future__ import annotations

from pathlib import Path

from export.bench_report import Report, markdown

_HEAD = """# Performance

Written by `{command}` in one run; ratios hold within it, and differ on other machines. Engines take turns after a
warm-up; p50, p95 and p99 are of one run of the whole batch; load, first inference and peak memory are of a new process.
Limits are those that the project set itself.
"""
_GPU = """## On an NVIDIA GPU

**Not measured yet: no NVIDIA GPU was available.** The TensorRT engines were built ahead of time and tried with fakes,
and never run; [jetson.md](jetson.md) says what was done instead. On a machine with a GPU, `python -m export tensorrt`
and the command above fill this page.
"""
_GPU_MEASURED = """## On an NVIDIA GPU

The rows above whose device is not a CPU name the GPU that they were measured on.
"""


def write(report: Report, file: Path, *, command: str, plot: Path | None) -> None:
    """Write the page; `plot` is the chart beside it, None without one."""
    parts = [_HEAD.format(command=command), markdown(report, headings=True)]
    if plot is not None:
        parts.append(f"![Latency by engine at the smallest batch]({plot.name})")
    # A server's device is an address.
    on_gpu = any(row.engine != "triton" and not row.device.startswith("CPU") for row in report.rows or ())
    parts.append(_GPU_MEASURED if on_gpu else _GPU)
    file.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")
