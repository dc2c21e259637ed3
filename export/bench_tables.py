"""Tables of what `benchmark` measures beyond engines and stages, each beside the limit that it is held to."""

from __future__ import annotations

from collections.abc import Sequence

from export.bench_archive import Archive
from export.bench_command import FIRST_MASK_AT_MOST_MB, FIRST_MASK_AT_MOST_S, SHARE_AT_LEAST, Folder, Start
from export.bench_openvino import SHARE_AT_LEAST as BESIDE_AT_LEAST
from export.bench_openvino import Beside
from export.roofline import Peaks, Share, Work


def table(head: Sequence[str], lines: Sequence[Sequence[str]], *, numbers_from: int) -> str:
    """A Markdown table, columns padded; those from `numbers_from` on are aligned to the right."""
    widths = [max(3, *(len(line[column]) for line in (head, *lines))) for column in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < numbers_from else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < numbers_from else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([row(head), row(rule), *map(row, lines)])


def start_table(starts: Sequence[Start]) -> str:
    """Cold processes."""
    lines = [
        (
            *(start.engine, f"{start.first_mask_s:.2f}"),
            "–" if start.peak_mb is None else f"{start.peak_mb:.0f}",
            verdict(
                start.first_mask_s <= FIRST_MASK_AT_MOST_S
                and (start.peak_mb is None or start.peak_mb <= FIRST_MASK_AT_MOST_MB)
            ),
        )
        for start in starts
    ]
    limit = f"at most {FIRST_MASK_AT_MOST_S:g} s, {FIRST_MASK_AT_MOST_MB:g} MB"
    return table(("cold process to first mask", "seconds", "peak MB", limit), lines, numbers_from=1)


def folder_table(folders: Sequence[Folder]) -> str:
    """Many images beside the engine alone; the limit is for masks of small images."""
    lines = [
        (
            f"{folder.images} images, {folder.side}×{folder.side}, --write {folder.write}",
            *(f"{folder.images_per_s:.1f}", folder.engine, f"{folder.engine_images_per_s:.1f}"),
            f"{folder.share:.0%}",
            verdict(folder.share >= SHARE_AT_LEAST) if folder.write == "masks" else "–",
        )
        for folder in folders
    ]
    head = ("predict", "images/s", "engine", "engine alone", "share", f"at least {SHARE_AT_LEAST:.0%}")
    return table(head, lines, numbers_from=1)


def archive_table(archives: Sequence[Archive]) -> str:
    """Archive jobs of one process and of several."""
    lines = [
        (
            f"{archive.images} images",
            *(f"{archive.processes}", f"{archive.images_per_s:.1f}", archive.engine),
            *(f"{archive.engine_images_per_s:.1f}", f"{archive.share:.0%}"),
            "–" if archive.peak_mb is None else f"{archive.peak_mb:.0f}",
        )
        for archive in archives
    ]
    head = ("archive job", "processes", "images/s", "engine", "engine alone", "share", "peak MB of a process")
    note = "From the start of all processes to the end of the last, starting included."
    return table(head, lines, numbers_from=1) + f"\n\n{note}"


def beside_table(beside: Beside) -> str:
    """The engine and OpenVINO's own tool."""
    line = (
        *(f"openvino {beside.precision}", f"{beside.engine_ms:.2f}", f"{beside.tool_ms:.2f}", f"{beside.share:.2f}"),
        verdict(beside.share >= BESIDE_AT_LEAST),
    )
    head = ("engine", "p50 ms", "benchmark_app p50 ms", "share", f"at least {BESIDE_AT_LEAST}")
    return table(head, [line], numbers_from=1)


def roofline_tables(work: Work, peaks: Peaks, shares: Sequence[Share]) -> str:
    """The network's work, the machine's peaks, and what each engine reaches of what both allow."""
    moved = ", ".join(f"{work.bytes_moved(name) / 1e6:.0f} MB in {name.upper()}" for name in ("fp32", "bf16"))
    speeds = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name.upper()}" for name, value in peaks.operations_per_s.items())
    text = (
        f"One image takes {work.operations / 1e9:.2f} GFLOP (a multiplication and an addition are two), counted from "
        f"the graph's convolutions and matrix products, and moves {moved}: {work.weights / 1e6:.1f} M weights once, "
        f"{work.activations / 1e6:.1f} M activations written and read once, without fusing.\n\n"
        f"This machine reached {speeds} in a product of two 2048×2048 matrices (FP32: the faster of torch and NumPy), "
        f"and {peaks.bytes_per_s / 1e9:.1f} GB/s in a copy of 256 MB. Attainable is the smaller of peak and intensity "
        "times bandwidth (Williams, Waterman and Patterson, 2009); an engine that fuses layers moves fewer bytes and "
        "may exceed it."
    )
    if any(share.gflop_per_s > share.attainable_gflop_per_s for share in shares):
        text += " Shares above 100 % say that this product is not the fastest that this processor can do."
    head = ("engine", "precision", "batch", "GFLOP/s", "attainable", "share")
    lines = [
        (
            *(share.engine, share.precision, str(share.batch)),
            *(f"{share.gflop_per_s:.0f}", f"{share.attainable_gflop_per_s:.0f}", f"{share.share:.0%}"),
        )
        for share in shares
    ]
    return f"{text}\n\n{table(head, lines, numbers_from=2)}" if lines else text


def verdict(holds: bool) -> str:
    """For the column of a limit."""
    return "met" if holds else "**missed**"
