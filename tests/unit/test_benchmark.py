"""What the benchmark measures and refuses: a busy machine, engines in turns, one run over a tiny model; no timing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engines.artefacts import Artefact
from engines.base import Availability
from engines.select import probe
from export import bench_engines, bench_page, benchmark, machine
from export.__main__ import main
from export.bench_engines import Cold
from export.bench_page import Page
from export.machine import Disturbance
from sgmsnet.checkpoint import find
from tests.fakes import FakeEngine
from tests.unit.benchmarking import LOUD, QUIET, ROW_KEYS
from tests.unit.benchmarking import cold as _cold


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
