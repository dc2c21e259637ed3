"""A benchmark's figures as Markdown, JSON and a bar chart. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.bench_archive import Archive
from export.bench_click import Click, Redraw
from export.bench_command import Folder, Start
from export.bench_engines import Row, Skipped
from export.bench_openvino import Beside
from export.bench_page import Page
from export.bench_pipeline import Stages
from export.bench_tables import archive_table, beside_table, folder_table, roofline_tables, start_table, table, verdict
from export.machine import Disturbance, Machine
from export.roofline import Peaks, Work, shares

BUSY = "measured on a busy machine"
BEFORE_AND_AFTER_AT_MOST_MS = 15.0
"""Prepare and postprocess of the 1024x1024 JPEG."""
REST_AT_MOST_MS = 25.0
"""What REST may add to the engine's time for it."""
AUTO_AT_LEAST, INT8_AT_LEAST = 6.0, 1.3
"""At batch 1: OpenVINO, which `auto` takes, over PyTorch FP32 on a CPU with AMX; INT8 over BF16 wherever both run."""
REDRAW_AT_MOST_MS = 50.0
"""From moving a slider of the viewer to the painted picture."""


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
    stages: tuple[Stages, ...] = ()
    page: Page | None = None
    click: Click | None = None
    starts: tuple[Start, ...] = ()
    folders: tuple[Folder, ...] = ()
    archives: tuple[Archive, ...] = ()
    beside: Beside | None = None
    work: Work | None = None
    peaks: Peaks | None = None

    @property
    def busy(self) -> bool:
        """Whether other processes were busy before or after the measurement."""
        return self.before.busy or self.after.busy

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: machine, model, rounds, and each part, null or empty where it was not asked for."""
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
            "stages": [asdict(stages) for stages in self.stages],
            "page": asdict(self.page) if self.page else None,
            "click": asdict(self.click) if self.click else None,
            "starts": [asdict(start) for start in self.starts],
            "folders": [{**asdict(folder), "share": folder.share} for folder in self.folders],
            "archives": [{**asdict(archive), "share": archive.share} for archive in self.archives],
            "beside": {**asdict(self.beside), "share": self.beside.share} if self.beside else None,
            "roofline": self._roofline(),
        }

    def _roofline(self) -> dict[str, Any] | None:
        if self.work is None or self.peaks is None:
            return None
        found = shares(self.work, self.peaks, self.rows or ())
        return {
            **asdict(self.work),
            **asdict(self.peaks),
            "shares": [{**asdict(share), "share": share.share} for share in found],
        }


def markdown(report: Report, *, headings: bool = False) -> str:
    """The whole report for a person, without a line break at the end; headings for a page of its own."""
    lines = [f"Machine: {report.machine.line()}.", f"Before: {report.before.sentence()}; after: {_after(report)}."]
    if report.busy:
        lines.append(f"**{BUSY}**")
    lines.append(f"Model: {report.model}, SHA-256 {report.model_sha256[:12]}; {report.rounds} rounds.")
    parts = ["\n\n".join(lines)]
    for heading, text in _parts(report):
        parts += [f"## {heading}", text] if headings else [text]
    return "\n\n".join(parts)


def _parts(report: Report) -> list[tuple[str, str]]:
    """Heading and text of what was measured."""
    found = []
    if report.rows is not None:
        limits = engine_limits(report.rows, cpu_flags=report.machine.cpu_flags)
        found.append(("Engines", "\n\n".join(filter(None, (engine_table(report.rows), limits)))))
    if report.skipped:
        reasons = "\n".join(f"- not measured: {entry.engine}, {entry.reason}" for entry in report.skipped)
        found.append(("Not measured", reasons))
    if report.beside:
        found.append(("Beside OpenVINO's own tool", beside_table(report.beside)))
    if report.stages:
        found.append(("One X-ray by stage", "\n\n".join(map(stage_table, report.stages))))
    if report.folders:
        found.append(("Folders", folder_table(report.folders)))
    if report.archives:
        found.append(("Archives", archive_table(report.archives)))
    if report.starts:
        found.append(("Cold start", start_table(report.starts)))
    if report.page:
        found.append(("Page and REST", page_table(report.page)))
    if report.click:
        found.append(("Click to picture", click_table(report.click)))
        if report.click.redraws:
            found.append(("Redraws", redraw_table(report.click.redraws)))
    if report.work and report.peaks:
        shared = shares(report.work, report.peaks, report.rows or ())
        found.append(("Roofline", roofline_tables(report.work, report.peaks, shared)))
    return found


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


def engine_limits(rows: Sequence[Row], *, cpu_flags: Sequence[str]) -> str:
    """What two of the rows are held to, at batch 1; "" where neither can be judged here."""
    p50 = {(row.engine, row.precision): row.p50_ms for row in rows if row.batch == 1}
    pairs = [(("openvino", "int8"), ("openvino", "bf16"), INT8_AT_LEAST)]
    if "amx_bf16" in cpu_flags:
        pairs.insert(0, (("openvino", "bf16"), ("pytorch", "fp32"), AUTO_AT_LEAST))
    sentences = []
    for fast, slow, at_least in pairs:
        if fast in p50 and slow in p50:
            ratio = p50[slow] / p50[fast]
            name, other = (f"{engine} {precision}" for engine, precision in (fast, slow))
            sentences.append(
                f"{name}: {ratio:.2f} times as fast as {other} (at least {at_least:g}: {verdict(ratio >= at_least)})."
            )
    return " ".join(sentences)


def stage_table(stages: Stages) -> str:
    """Medians by stage, and what they were measured with."""
    values = (*stages.median_ms.values(), stages.together_ms)
    head = ("stage, median ms", *stages.median_ms, "together")
    line = (f"{stages.image}, {stages.width}×{stages.height}", *(f"{value:.1f}" for value in values))
    around = stages.median_ms["prepare"] + stages.median_ms["postprocess"]
    limit = f"limit {BEFORE_AND_AFTER_AT_MOST_MS:g} ms: {verdict(around <= BEFORE_AND_AFTER_AT_MOST_MS)}"
    note = f"Engine: {stages.engine} {stages.precision}. Prepare and postprocess: {around:.1f} ms ({limit})."
    return table(head, [line], numbers_from=1) + f"\n\n{note} encode writes {stages.write}."


def page_table(page: Page) -> str:
    """The page's start and its uploads."""
    uploads = f"upload p50 ms, {page.uploads} later ones"
    head = ("page", "ready s", "first upload answered s", uploads, "p95 ms")
    seconds = (f"{page.ready_s:.2f}", f"{page.first_upload_s:.2f}")
    line = (page.image, *seconds, f"{page.upload_p50_ms:.0f}", f"{page.upload_p95_ms:.0f}")
    note = f"Seconds count from the start of `python app.py`. Engine: {page.engine} {page.precision}."
    limit = f"limit {REST_AT_MOST_MS:g} ms: {verdict(page.rest_overhead_p50_ms <= REST_AT_MOST_MS)}"
    rest = (
        f"REST, /v1/segment with run lengths: p50 {page.rest_p50_ms:.1f} ms, of which "
        f"{page.rest_overhead_p50_ms:.1f} ms are not the engine's ({limit})."
    )
    return table(head, [line], numbers_from=1) + f"\n\n{note} {rest}"


def click_table(click: Click) -> str:
    """From choosing a file in the browser to the picture."""
    values = (*click.median_ms.values(), click.together_ms, click.slowest_ms)
    head = ("click to picture, median ms", *click.median_ms, "together", "slowest")
    name = f"PNG {click.side}×{click.side}, {click.megabytes:.1f} MB, {click.clicks} clicks"
    return table(head, [(name, *(f"{value:.0f}" for value in values))], numbers_from=1)


def redraw_table(redraws: Sequence[Redraw]) -> str:
    """From moving a slider to the painted picture."""
    head = ("redraw in the browser", "canvas", "p50 ms", "p95 ms", f"limit {REDRAW_AT_MOST_MS:g} ms")
    lines = [
        (
            *(f"{one.control}, {one.bits} bit", f"{one.width}×{one.height}", f"{one.median_ms:.0f}"),
            *(f"{one.p95_ms:.0f}", verdict(one.p95_ms <= REDRAW_AT_MOST_MS)),
        )
        for one in redraws
    ]
    note = f"{redraws[0].moves} steps of each slider, from the input event until the canvas is painted, in full screen."
    return table(head, lines, numbers_from=2) + f"\n\n{note} The limit holds for p95."


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
