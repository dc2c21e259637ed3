"""A benchmark's figures as Markdown, JSON and a bar chart. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.bench_engines import Row, Skipped
from export.bench_page import Page
from export.bench_pipeline import Stages
from export.machine import Disturbance, Machine

BUSY = "measured on a busy machine"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was measured; None for a part that was not asked for."""

    machine: Machine
    before: Disturbance
    after: Disturbance
    model: str
    model_sha256: str
    rounds: int
    rows: tuple[Row, ...] | None = None
    skipped: tuple[Skipped, ...] = ()
    stages: Stages | None = None
    page: Page | None = None

    @property
    def busy(self) -> bool:
        """Whether other processes were busy before or after the measurement."""
        return self.before.busy or self.after.busy

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: rows, skipped, stages, page, machine, model, rounds."""
        machine = {
            **asdict(self.machine),
            "other_cpu_percent_before": self.before.percent,
            "other_cpu_percent_after": self.after.percent,
            "busy": self.busy,
        }
        return {
            "machine": machine,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "rounds": self.rounds,
            "rows": [asdict(row) for row in self.rows or ()],
            "skipped": [asdict(entry) for entry in self.skipped],
            "stages": asdict(self.stages) if self.stages else None,
            "page": asdict(self.page) if self.page else None,
        }


def markdown(report: Report) -> str:
    """The whole report for a person, without a line break at the end."""
    lines = [f"Machine: {report.machine.line()}.", f"Before: {report.before.sentence()}; after: {_after(report)}."]
    if report.busy:
        lines.append(f"**{BUSY}**")
    lines.append(f"Model: {report.model}, SHA-256 {report.model_sha256[:12]}; {report.rounds} rounds.")
    parts = ["\n\n".join(lines)]
    if report.rows is not None:
        parts.append(engine_table(report.rows))
    if report.skipped:
        parts.append("\n".join(f"- not measured: {entry.engine}, {entry.reason}" for entry in report.skipped))
    if report.stages:
        parts.append(stage_table(report.stages))
    if report.page:
        parts.append(page_table(report.page))
    return "\n\n".join(parts)


def _after(report: Report) -> str:
    return report.after.sentence().removeprefix("other processes use ")


def engine_table(rows: Sequence[Row]) -> str:
    """One line for each engine, precision and batch size."""
    head = (
        *("engine", "precision", "device", "batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "× pytorch"),
        *("load ms", "first ms", "peak MB"),
    )
    cells = [
        (
            *(row.engine, row.precision, row.device, str(row.batch)),
            *(f"{row.p50_ms:.1f}", f"{row.p95_ms:.1f}", f"{row.p99_ms:.1f}", f"{row.images_per_s:.1f}"),
            _or_dash(row.speedup_over_pytorch, ".2f"),
            *(f"{row.load_ms:.0f}", f"{row.first_ms:.1f}", _or_dash(row.peak_mb, ".0f")),
        )
        for row in rows
    ]
    return table(head, cells, numbers_from=3)


def stage_table(stages: Stages) -> str:
    """Medians by stage, and what they were measured with."""
    values = (*stages.median_ms.values(), stages.together_ms)
    head = ("stage, median ms", *stages.median_ms, "together")
    line = (f"{stages.image}, {stages.width}×{stages.height}", *(f"{value:.1f}" for value in values))
    return table(head, [line], numbers_from=1) + f"\n\nEngine: {stages.engine} {stages.precision}."


def page_table(page: Page) -> str:
    """The page's start and its uploads."""
    uploads = f"upload p50 ms, {page.uploads} later ones"
    head = ("page", "ready s", "first upload answered s", uploads, "p95 ms")
    seconds = (f"{page.ready_s:.2f}", f"{page.first_upload_s:.2f}")
    line = (page.image, *seconds, f"{page.upload_p50_ms:.0f}", f"{page.upload_p95_ms:.0f}")
    note = f"Seconds count from the start of `python app.py`. Engine: {page.engine} {page.precision}."
    return table(head, [line], numbers_from=1) + f"\n\n{note}"


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


def plot(report: Report, file: Path) -> None:
    """Bars of p50 from zero with whiskers up to p95, at the smallest batch size that was measured."""
    from matplotlib.figure import Figure

    rows = report.rows or ()
    batch = min(row.batch for row in rows)
    shown = sorted((row for row in rows if row.batch == batch), key=lambda row: row.p50_ms)
    figure = Figure(figsize=(7, 1.4 + 0.5 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    whiskers = [[0.0] * len(shown), [row.p95_ms - row.p50_ms for row in shown]]
    names = [f"{row.engine} {row.precision}" for row in shown]
    axes.barh(names, [row.p50_ms for row in shown], xerr=whiskers, color="#56b4e9", ecolor="#333333", capsize=3)
    axes.invert_yaxis()  # the fastest on top
    axes.set_xlim(left=0)
    axes.set_xlabel(f"ms a run at batch {batch}: median, whisker to the 95th percentile")
    title = f"{report.model}, {report.machine.cpu}, {report.machine.cores} cores"
    axes.set_title(f"{title}, {BUSY}" if report.busy else title, fontsize="medium")
    figure.savefig(file, dpi=150, format="png")


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
