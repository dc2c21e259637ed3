"""The benchmark's arithmetic, tables and refusal on hand-made figures, and one run over a tiny model; no timing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.artefacts import Artefact
from engines.base import Availability
from engines.select import probe
from export import bench_click, bench_engines, bench_page, benchmark, machine
from export.__main__ import main
from export.bench_engines import Cold, Row, Skipped
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
from export.machine import Disturbance, Machine
from sgmsnet.checkpoint import find
from sgmsnet.prediction import STAGES
from tests.fakes import FakeEngine

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


def _cold(engine: str, precision: str) -> Cold:
    return Cold(engine=engine, precision=precision, load_ms=500.0, first_ms=50.0, peak_mb={1: 300.0, 4: None})


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


def test_engines_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_engines.time, "sleep", lambda _: None)
    order: list[str] = []

    class Noted(FakeEngine):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            order.append(self.name)
            return super().run(images)

    times = bench_engines.take_turns([Noted("a"), Noted("b")], np.zeros((2, 1, 224, 224), np.uint8), rounds=3)
    assert "".join(order) == "aaabbb" + "aabb" + "bbaa" + "aabb"
    assert [len(values) for values in times] == [3, 3]


def test_a_batch_repeats_the_images_when_there_are_too_few() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert bench_engines._batch(images, 2).ravel().tolist() == [0, 1]
    assert bench_engines._batch(images, 7).ravel().tolist() == [0, 1, 2, 0, 1, 2, 0]


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


@pytest.mark.parametrize(("percent", "busy"), [(0.0, False), (20.0, False), (20.1, True), (None, False)])
def test_more_than_a_fifth_of_a_core_is_busy(percent: float | None, busy: bool) -> None:
    assert Disturbance(percent, "unknown here").busy is busy


def test_a_busy_machine_is_refused_with_its_load(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "disturbance", lambda: LOUD)
    assert main(["benchmark", "--model", str(tiny_model)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "other processes use 143 % of one core" in err


def test_other_processes_are_all_ticks_but_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    every, own, clock = iter([1000, 1090]), iter([50, 70]), iter([10.0, 12.0])
    monkeypatch.setattr(machine, "_busy_ticks", lambda: next(every))
    monkeypatch.setattr(machine, "_own_ticks", lambda: next(own))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    monkeypatch.setattr(machine.os, "sysconf", lambda _: 100, raising=False)
    # 90 ticks of 10 ms in 2 s, 20 of them our own: 0.7 s in 2 s.
    assert machine._watch(2.0) == pytest.approx(35.0)


def test_ticks_are_read_from_the_documented_columns(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 20 300 4000 50000 600000 7000000 80000000 900000000 1\ncpu0 0\n")
    assert machine._busy_ticks(stat) == 87_600_321  # user, nice, system, irq, softirq, steal; neither idle nor guests
    stat.write_text("42 (a) b (c) S 1 1 1 0 -1 4194304 100 0 0 0 250 31 7 8 20 0 1 0\n")
    assert machine._own_ticks(stat) == 281


def test_without_proc_the_load_average_counts_and_without_that_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    assert machine.disturbance().percent == pytest.approx(150)
    monkeypatch.delattr(machine.os, "getloadavg")
    unknown = machine.disturbance()
    assert unknown.percent is None
    assert not unknown.busy
    assert "does not say" in unknown.sentence()


def test_the_processor_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example  CPU @ 2 GHz\n")
    assert machine.cpu_model(tmp_path / "cpuinfo") == "Example CPU @ 2 GHz"
    assert machine.cpu_model(tmp_path / "absent")


def test_verified_artefacts_are_measured_beside_the_default_and_fp32(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [
        Artefact("openvino", "int8", True, "verified on 160 images"),
        Artefact("openvino", "bf16", True, "verified on 160 images"),
        Artefact("openvino", "fp16", False, "not verified"),
    ]
    monkeypatch.setattr(bench_engines.artefacts, "held", lambda files: held)
    here = [Availability(name, True, "installed", "1") for name in ("openvino", "pytorch")]
    monkeypatch.setattr(bench_engines.select, "probe", lambda files: here)

    def child(files: object, engine: str, image: Path, *, precision: str | None, batches: object) -> Cold:
        return _cold(engine, precision or ("bf16" if engine == "openvino" else "fp32"))

    monkeypatch.setattr(bench_engines, "_in_child", child)
    cold, skipped = bench_engines.measure_cold(find(tiny_model), Path("a.jpg"), batches=[1])
    measured = [(one.engine, one.precision) for one in cold]
    assert measured == [("openvino", "bf16"), ("openvino", "fp32"), ("openvino", "int8"), ("pytorch", "fp32")]
    assert skipped == []


def test_an_engine_that_crashes_gives_a_reason(tiny_model: Path) -> None:
    outcome = bench_engines._in_child(find(tiny_model), "onnxruntime", Path("absent.jpg"), precision=None, batches=[1])
    assert isinstance(outcome, str)
    assert outcome.startswith("its process ended with status 1")


def test_an_engine_without_a_precision_gives_its_own_reason(tiny_model: Path) -> None:
    image = benchmark.EXAMPLES / benchmark.IMAGE
    outcome = bench_engines._in_child(find(tiny_model), "pytorch", image, precision="int8", batches=[1])
    assert isinstance(outcome, str)
    assert "not int8" in outcome


def test_a_page_that_does_not_start_is_named_and_the_rest_is_printed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Page:
        raise bench_page.PageError("app.py ended with status 1: no engine")

    monkeypatch.setattr(benchmark, "disturbance", lambda: QUIET)
    monkeypatch.setattr(bench_page, "measure", refuse)
    assert main(["benchmark", "--model", str(tiny_model), "--only", "page"]) == 1
    assert "not measured: page, app.py ended with status 1" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--only", "engine"], ["--batches", "1,0"], ["--rounds", "-1"]])
def test_options_that_make_no_sense_end_with_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["benchmark", *options])
    assert left.value.code == 2


def test_a_plot_without_engines_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--only", "stages", "--plot", "bars.png"]) == 1
    assert "--plot" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_yields_rows_for_every_engine_that_is_here(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, bars = tmp_path / "bench.json", tmp_path / "bars.png"
    options = ["--model", str(tiny_model), "--rounds", "3", "--batches", "1,3", "--only", "engines,stages", "--busy"]
    assert main(["benchmark", *options, "--json", str(figures), "--plot", str(bars)]) == 0
    content = json.loads(figures.read_text(encoding="utf-8"))
    available = {found.name for found in probe(find(tiny_model)) if found.available}
    assert {(row["engine"], row["batch"]) for row in content["rows"]} == {
        (name, n) for name in available for n in (1, 3)
    }
    assert available == {row["engine"] for row in content["rows"] if row["precision"] == "fp32"}
    assert all(set(row) == ROW_KEYS for row in content["rows"])
    assert all(value > 0 for row in content["rows"] for value in (row["p50_ms"], row["load_ms"], row["first_ms"]))
    assert [(stages["width"], stages["write"]) for stages in content["stages"]] == [
        (1024, "masks"),
        (1024, "masks,overlay"),
    ]
    assert content["page"] is None
    assert bars.stat().st_size > 0
    assert "| pytorch" in capsys.readouterr().out
