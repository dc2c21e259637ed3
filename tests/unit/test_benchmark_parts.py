"""What the benchmark does beyond engines: roofline, folders, starts, OpenVINO's tool, page of figures; no timing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export import bench_archive, bench_command, bench_engines, bench_openvino, benchmark, performance, roofline
from export.__main__ import main
from export.bench_archive import Archive
from export.bench_command import CommandFailed, Folder, Start
from export.bench_openvino import Beside, ToolError
from export.bench_report import Report, markdown
from export.roofline import Peaks, Work
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.config import ModelConfig
from tests.fakes import FakeEngine, info_with
from tests.unit.benchmarking import MACHINE, QUIET
from tests.unit.benchmarking import cold as _cold

EXAMPLE = benchmark.EXAMPLES / benchmark.IMAGE
WORK = Work(operations=8e9, weights=28_000_000, activations=10_000_000)
PEAKS = Peaks({"fp32": 100e9, "bf16": 1000e9}, bytes_per_s=10e9)


def _rows() -> list[bench_engines.Row]:
    cold = [_cold("openvino", "bf16"), _cold("openvino", "int8"), _cold("pytorch", "fp32")]
    return bench_engines.rows(cold, ["CPU"] * 3, {1: [np.array([20.0]), np.array([10.0]), np.array([100.0])]})


def _report() -> Report:
    folder = Folder(
        images=500, side=224, write="masks", engine="openvino bf16", images_per_s=30.0, engine_images_per_s=40.0
    )
    return Report(
        machine=MACHINE,
        before=QUIET,
        after=QUIET,
        model="tiny",
        model_sha256="0" * 64,
        rounds=3,
        rows=tuple(_rows()),
        starts=(Start(engine="onnxruntime", first_mask_s=2.5, peak_mb=501.0),),
        folders=(folder, replace(folder, side=1024, write="masks,overlay", images_per_s=10.0)),
        archives=(
            Archive(
                images=1000,
                processes=2,
                engine="openvino bf16",
                images_per_s=30.0,
                engine_images_per_s=40.0,
                peak_mb=500.0,
            ),
        ),
        beside=Beside(precision="bf16", engine_ms=10.0, tool_ms=9.6),
        work=WORK,
        peaks=PEAKS,
    )


def test_operations_are_those_that_torch_counts(tiny_model: Path, tiny_config: ModelConfig) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sgmsnet.checkpoint import load_network

    files = find(tiny_model)
    network = load_network(files)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, 64, 64, dtype=torch.uint8))
    assert files.graph is not None
    work = roofline.count(files.graph, height=64, width=64)
    assert work.operations == counter.get_total_flops()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert work.weights == pytest.approx(parameters, rel=0.05)  # batch norm is folded or has its statistics beside


def test_the_roof_is_the_smaller_of_peak_and_intensity_times_bandwidth() -> None:
    # FP32: 8 GFLOP over 4 (28 + 2 x 10) MB = 41.7 FLOP a byte, times 10 GB/s = 417 GFLOP/s: above the peak of 100.
    assert roofline.attainable(WORK, PEAKS, "fp32", batch=1) == pytest.approx(100e9)
    # BF16: half the bytes, 833 GFLOP/s, below the peak of 1000; a batch of 16 shares the weights.
    assert roofline.attainable(WORK, PEAKS, "bf16", batch=1) == pytest.approx(8e9 / 96e6 * 10e9)
    assert roofline.attainable(WORK, PEAKS, "bf16", batch=16) == pytest.approx(1000e9)
    assert roofline.attainable(WORK, PEAKS, "int8", batch=1) is None


def test_the_share_is_what_an_engine_reaches_of_the_roof() -> None:
    bf16, fp32 = roofline.shares(WORK, PEAKS, _rows())  # int8 has no measured peak
    assert (bf16.engine, fp32.engine) == ("openvino", "pytorch")
    assert bf16.gflop_per_s == pytest.approx(400)
    assert bf16.share == pytest.approx(400 / (8e9 / 96e6 * 10))
    assert fp32.share == pytest.approx(0.8)


@pytest.mark.parametrize(("has_bf16", "precisions"), [(True, {"fp32", "bf16"}), (False, {"fp32"})])
def test_peaks_are_measured(has_bf16: bool, precisions: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "multiplies_bf16", lambda: has_bf16)
    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPY_BYTES", 2**20)
    peaks = roofline.measure_peaks(seconds=0.001)
    assert set(peaks.operations_per_s) == precisions
    assert all(value > 0 for value in (*peaks.operations_per_s.values(), peaks.bytes_per_s))


def test_limits_are_met_or_missed_in_the_report() -> None:
    text = markdown(_report())
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "**missed**" in lines["onnxruntime"]  # 501 MB
    assert "75%" in lines["500 images, 224×224, --write masks"]
    assert "**missed**" in lines["500 images, 224×224, --write masks"]
    assert "missed" not in lines["500 images, 1024×1024, --write masks,overlay"]
    assert "0.96" in text
    assert "8.00 GFLOP" in text


def test_json_holds_every_part() -> None:
    content = _report().to_dict()
    assert content["folders"][0]["share"] == pytest.approx(0.75)
    assert content["archives"][0]["share"] == pytest.approx(0.75)
    assert content["beside"]["share"] == pytest.approx(0.96)
    assert content["roofline"]["operations"] == 8e9
    assert len(content["roofline"]["shares"]) == 2
    assert replace(_report(), work=None).to_dict()["roofline"] is None


def test_the_page_of_figures_says_that_no_gpu_was_there(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    performance.write(_report(), page, command="python -m export benchmark", plot=tmp_path / "performance.png")
    text = page.read_text(encoding="utf-8")
    assert "Not measured yet: no NVIDIA GPU was available." in text
    assert "![Latency by engine at the smallest batch](performance.png)" in text
    for heading in ("Engines", "Roofline", "Folders", "Cold start", "Beside OpenVINO's own tool", "On an NVIDIA GPU"):
        assert f"\n## {heading}\n" in text
    for engine, device, on_gpu in (
        ("pytorch", "NVIDIA RTX", True),
        ("onnxruntime", "CUDA (NVIDIA RTX)", True),
        ("tensorrt", "NVIDIA RTX", True),
        ("openvino", "CPU (Example)", False),
        ("triton", "server localhost:8000", False),
    ):
        rows = (replace(_rows()[0], engine=engine, device=device),)
        performance.write(replace(_report(), rows=rows), page, command="c", plot=None)
        assert ("Not measured yet" not in page.read_text(encoding="utf-8")) is on_gpu, engine


def test_few_large_batches_are_enough() -> None:
    assert [bench_engines.rounds_at(batch, 30) for batch in (1, 4, 16)] == [30, 30, 10]
    assert bench_engines.rounds_at(16, 3) == 3
    assert bench_engines.rounds_at(16, 60) == 20


def test_images_of_a_folder_differ(tmp_path: Path) -> None:
    made = bench_command.make_images([EXAMPLE], tmp_path / "in", count=5, side=32)
    pixels = []
    for path in made:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((32, 32), "L")
            pixels.append(image.tobytes())
    assert len(set(pixels)) == 5


def test_every_image_of_an_archive_is_predicted_once_by_any_number_of_processes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, set[str]] = {}
    predict = bench_archive.predict

    def kept(files: ModelFiles, inputs: list[Path], output: Path, **options: Any) -> tuple[float, float | None]:
        found = predict(files, inputs, output, **options)
        written.setdefault(output.name, set()).update(path.name for path in output.glob("*_lungs.png"))
        return found

    monkeypatch.setattr(bench_archive, "predict", kept)
    jobs = bench_archive.measure(find(tiny_model), [EXAMPLE], count=7)
    assert [(job.images, job.processes) for job in jobs] == [(7, 1), (7, 2)]
    assert len(written["out-1"]) == 7
    assert written["out-2"] == written["out-1"]


def test_what_benchmark_app_says_is_read() -> None:
    assert bench_openvino.median_of("[ INFO ] Latency:\n[ INFO ]    Median:        104.66 ms\n") == 104.66
    with pytest.raises(ToolError, match="gave no median: it broke"):
        bench_openvino.median_of("Step 1\nit broke\n")


def test_the_tool_is_given_the_graph_that_the_engine_runs(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(info_with(backend="openvino", precision="bf16", runtime_version="2026.4"))
    asked = []

    def graph_of(files: ModelFiles, precision: str, *, version: str) -> tuple[Path, tuple[str, ...]]:
        asked.append((precision, version))
        return Path("built.onnx"), ()

    monkeypatch.setattr(bench_openvino.select, "open_engine", lambda name, files: engine)
    monkeypatch.setattr(bench_openvino, "runnable_graph", graph_of)
    monkeypatch.setattr(bench_openvino.Path, "is_file", lambda path: True)
    monkeypatch.setattr(
        bench_openvino, "_tool_ms", lambda tool, graph, *_, **__: 2.0 if graph.name == "built.onnx" else 9
    )
    found = bench_openvino.measure(SimpleNamespace(), turns=1, seconds=0.01)  # type: ignore[arg-type]
    assert (found.tool_ms, asked) == (2.0, [("bf16", "2026.4")])


def test_a_missing_tool_is_a_reason(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_openvino.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ToolError, match="benchmark_app is not installed"):
        bench_openvino.measure(find(tiny_model))


def test_a_predict_that_fails_is_a_reason(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="predict ended with status"):
        bench_command.measure_starts(find(tiny_model), tmp_path / "absent.jpg", engines=["onnxruntime"], repeats=1)


@pytest.mark.slow
def test_every_part_but_page_and_click_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "FOLDERS", ((4, 32, "masks"),))
    monkeypatch.setattr(benchmark, "ARCHIVES", (12,))
    monkeypatch.setattr(roofline, "_SIDE", 64)
    figures = tmp_path / "performance.md"
    options = ["--model", str(tiny_model), "--busy", "--only", "openvino,folder,archive,start,roofline"]
    assert main(["benchmark", *options, "--markdown", str(figures)]) == 0
    text = figures.read_text(encoding="utf-8")
    assert "4 images, 32×32, --write masks" in text
    jobs = [line.split("|")[2:4] for line in text.splitlines() if line.startswith("| 12 images")]
    assert [int(processes) for processes, _ in jobs] == [1, 2]
    assert all(float(rate) > 0 for _, rate in jobs)
    assert "GFLOP" in text
    assert "python -m export benchmark --model" in text
    assert "Measuring: roofline" in capsys.readouterr().err
