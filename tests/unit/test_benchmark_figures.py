"""The benchmark's arithmetic, limits, tables and report on hand-made figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import bench_click, bench_engines
from export.bench_engines import Row, Skipped
from export.bench_page import Page
from export.bench_pipeline import Stages
from export.bench_report import (
    BUSY,
    Report,
    click_table,
    engine_limits,
    engine_table,
    markdown,
    plot,
    redraw_table,
    table,
)
from export.machine import Disturbance
from sgmsnet.prediction import STAGES
from tests.unit.benchmarking import LOUD, MACHINE, QUIET, ROW_KEYS
from tests.unit.benchmarking import cold as _cold


@pytest.fixture
def rows() -> list[Row]:
    """OpenVINO in BF16 ten times as fast as PyTorch in FP32."""
    fast, slow = np.array([4.0, 5.0, 6.0]), np.array([40.0, 50.0, 60.0])
    cold = [_cold("openvino", "bf16"), _cold("pytorch", "fp32")]
    return bench_engines.rows(cold, ["CPU", "CPU"], {1: [fast, slow], 4: [4 * fast, 4 * slow]})


def _report(rows: list[Row], *, after: Disturbance = QUIET) -> Report:
    stages = Stages(
        write="masks",
        image="a.jpg",
        width=1024,
        height=1000,
        engine="openvino",
        precision="bf16",
        rounds=3,
        median_ms=dict.fromkeys(STAGES, 2.0),
        together_ms=10.0,
    )
    page = Page(
        image="a.jpg",
        engine="openvino",
        precision="bf16",
        ready_s=2.5,
        first_upload_s=3.25,
        uploads=10,
        upload_p50_ms=120.0,
        upload_p95_ms=151.0,
        rest_p50_ms=48.0,
        rest_overhead_p50_ms=26.0,
    )
    return Report(
        machine=MACHINE,
        before=QUIET,
        after=after,
        model="tiny",
        model_sha256="0" * 64,
        rounds=3,
        rows=tuple(rows),
        skipped=(Skipped("tensorrt", "no GPU"),),
        stages=(stages,),
        page=page,
    )


def test_a_click_is_split_into_upload_server_and_drawing() -> None:
    times = [{"chosen": 10.0, "sent": 10.0 + k, "answered": 110.0 + k, "drawn": 130.0 + 3 * k} for k in (20, 30, 40)]
    click = bench_click.summarise(times, megabytes=4.0)
    assert click.median_ms == {"upload": 30, "server": 100, "drawing": 80}
    assert (click.together_ms, click.slowest_ms, click.clicks) == (210, 240, 3)
    assert "|" in click_table(click)


def test_redraws_are_held_to_their_limit_at_the_95th_percentile() -> None:
    canvas = (1560, 1030)
    quick = bench_click.summarise_moves([*[20.0] * 19, 51.0], control="window", bits=16, canvas=canvas)
    slow = bench_click.summarise_moves([*[20.0] * 18, 51.0, 51.0], control="opacity", bits=16, canvas=canvas)
    assert (quick.median_ms, slow.median_ms, quick.moves) == (20, 20, 20)
    _, _, window, opacity = redraw_table([quick, slow]).splitlines()[:4]
    assert "window, 16 bit" in window
    assert "met" in window
    assert "missed" in opacity


def test_engines_are_held_to_their_ratios_where_they_can_be(rows: list[Row]) -> None:
    made = {("openvino", "bf16"): 8.0, ("pytorch", "fp32"): 50.0, ("openvino", "int8"): 6.5}
    timed = [replace(rows[0], engine=e, precision=p, batch=1, p50_ms=ms) for (e, p), ms in made.items()]
    assert engine_limits(timed, cpu_flags=("amx_tile", "amx_bf16")) == (
        "openvino bf16: 6.25 times as fast as pytorch fp32 (at least 6: met). "
        "openvino int8: 1.23 times as fast as openvino bf16 (at least 1.3: **missed**)."
    )
    assert engine_limits(timed[:2], cpu_flags=()) == "", "the first limit is for AMX"
    assert engine_limits([replace(row, batch=4) for row in timed], cpu_flags=("amx_bf16",)) == ""


def test_percentiles_lie_on_the_line_between_samples() -> None:
    # 101 samples 0..100: the q-th percentile is q, whatever their order.
    samples = np.random.default_rng(0).permutation(np.arange(101.0))
    assert bench_engines.percentiles(samples) == pytest.approx((50, 95, 99))
    assert bench_engines.percentiles(np.array([1.0, 3.0])) == pytest.approx((2, 2.9, 2.98))
    assert bench_engines.percentiles(np.array([7.0])) == pytest.approx((7, 7, 7))


def test_rows_hold_every_engine_at_every_batch_size(rows: list[Row]) -> None:
    assert [(row.engine, row.batch) for row in rows] == [
        ("openvino", 1),
        ("openvino", 4),
        ("pytorch", 1),
        ("pytorch", 4),
    ]
    first, second, reference, _ = rows
    assert first.p50_ms == pytest.approx(5)
    assert first.images_per_s == second.images_per_s == pytest.approx(200)
    assert (first.peak_mb, second.peak_mb) == (300, None)
    assert first.speedup_over_pytorch == pytest.approx(10)
    assert reference.speedup_over_pytorch == pytest.approx(1)


def test_there_is_no_speedup_without_pytorch_in_fp32() -> None:
    cold = [_cold("openvino", "fp32"), _cold("pytorch", "bf16")]
    made = bench_engines.rows(cold, ["CPU", "CPU"], {1: [np.array([1.0]), np.array([2.0])]})
    assert [row.speedup_over_pytorch for row in made] == [None, None]
    assert engine_table(made).splitlines()[2].split("|")[9].strip() == "–"


def test_a_table_has_one_width_and_numbers_to_the_right() -> None:
    assert table(("name", "ms"), [("a", "1.5"), ("longer", "12.5")], numbers_from=1).splitlines() == [
        "| name   |   ms |",
        "| ------ | ---: |",
        "| a      |  1.5 |",
        "| longer | 12.5 |",
    ]


def test_the_report_says_everything_in_markdown(rows: list[Row]) -> None:
    text = markdown(_report(rows))
    assert "Example CPU, 2 cores, amx_bf16, 15.5 GiB, load average 0.25, Python 3.11.1, git unknown" in text
    assert "Before: other processes use 3 % of one core (over 1 s); after: 3 % of one core (over 1 s)." in text
    assert "not measured: tensorrt, no GPU" in text
    assert "| a.jpg, 1024×1000 |" in text
    assert "| a.jpg |    2.50 |                    3.25 |" in text
    assert "Prepare and postprocess: 4.0 ms (limit 15 ms: met)" in text
    assert "26.0 ms are not the engine's (limit 25 ms: **missed**)" in text
    assert BUSY not in text


def test_a_machine_that_is_busy_afterwards_is_named_busy(rows: list[Row]) -> None:
    report = _report(rows, after=LOUD)
    assert BUSY in markdown(report)
    assert report.to_dict()["machine"]["busy"] is True


def test_json_has_the_documented_keys(rows: list[Row]) -> None:
    content = json.loads(json.dumps(_report(rows).to_dict(), allow_nan=False))
    assert set(content) == {
        "machine",
        "model",
        "model_sha256",
        "rounds",
        "rows",
        "skipped",
        "stages",
        "page",
        "click",
    } | {*("starts", "folders", "archives", "beside", "roofline")}
    assert all(set(row) == ROW_KEYS for row in content["rows"])
    assert content["machine"]["other_cpu_percent_before"] == 3.0
    assert set(content["stages"][0]["median_ms"]) == set(STAGES)
    assert content["page"]["first_upload_s"] == 3.25


def test_the_plot_is_a_png(rows: list[Row], tmp_path: Path) -> None:
    plot(_report(rows, after=LOUD), tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
