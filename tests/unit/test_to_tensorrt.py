"""The command builds a plan with a manifest that fits it, in a child process whose end is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from engines import manifest as manifests
from engines import verdicts
from engines.base import EngineUnavailable
from engines.cuda import Gpu
from export import ExportError, capability, to_onnx, to_tensorrt
from export.__main__ import main
from export.plan import PlanRequest
from sgmsnet.checkpoint import ModelFiles, find
from tests.needs import ROOT, missing

REQUEST = PlanRequest(
    runtime="tensorrt-rtx", graph="nowhere.onnx", plan="model.plan", precision="fp16", workspace_mb=64
)


ORIN = Gpu("Orin", "8.7", 16)


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


def _need_rtx() -> None:
    try:
        metadata.version("tensorrt-rtx-cu13")
    except metadata.PackageNotFoundError:
        missing("tensorrt-rtx-cu13 is not installed; requirements-dev.txt has it")


def test_the_command_builds_ahead_of_time_with_a_manifest_that_fits(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_rtx()
    build = to_tensorrt.build
    monkeypatch.setattr(to_tensorrt, "build", lambda files, **options: build(files, built=tmp_path, **options))
    monkeypatch.setattr(to_tensorrt, "available_mb", lambda: None)
    arguments = ["tensorrt", "--model", str(files.weights), "--rtx", "--compute-capability", "8.6", "8.9"]
    assert main(arguments) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "Parser: reads every node" in said
    assert "Building engine: 100 %" in said
    assert "on its GPU, `python -m export verify --model" in said
    assert "--engine tensorrt-rtx --precision fp16` compares it" in said
    folder = tmp_path / "tiny" / "tensorrt-rtx-fp16"
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "model.onnx", "model.plan"]
    made = manifests.read(folder)
    assert manifests.check_artefact(folder, made) == folder / "model.plan"
    manifests.check_model(made, weights_sha256=files.sha256)
    manifests.check_machine(made, gpu_name="any", compute_capability="8.9")
    manifests.check_version(made, metadata.version("tensorrt-rtx-cu13"))
    assert tuple(made.outputs) == files.config.outputs
    assert made.inputs == {"images": (-1, 1, 64, 64)}
    assert made.outputs["gate_5"] == (-1, 1, 2, 2)
    assert (made.precision, made.opset, made.batch_max, made.gpu_name) == ("fp16", 20, 16, None)


def test_what_the_parser_does_not_read_is_named_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _need_rtx()
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Abacus", ["images"], ["y"])], "control", [images], [output])
    path = tmp_path / "control.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    monkeypatch.chdir(tmp_path)
    (reason,) = capability.inspect(path, runtime="tensorrt-rtx")
    assert reason.startswith("Abacus: ")
    assert "Plugin not found" in reason
    assert to_tensorrt._capability(path, "tensorrt-rtx").startswith("does not read Abacus: ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["control.onnx"]  # polygraphy leaves nothing behind
    assert "not asked (" in to_tensorrt._capability(tmp_path / "absent.onnx", "tensorrt-rtx")


def test_a_refusal_of_the_child_is_its_last_sentence() -> None:
    _need_rtx()
    with pytest.raises(ExportError, match=r"tensorrt-rtx cannot read nowhere\.onnx") as caught:
        to_tensorrt.run_child(REQUEST, report=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_builder_that_the_system_ends_is_told_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(to_tensorrt.subprocess, "Popen", lambda _, **options: popen(killed, **options))
    with pytest.raises(ExportError, match=r"signal 9.*add swap"):
        to_tensorrt.run_child(REQUEST, report=lambda line: None)


def test_too_little_memory_is_told_before_building(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4096000 kB\nMemAvailable: 1024000 kB\nSwapFree: 512000 kB\n")
    assert to_tensorrt.available_mb(meminfo) == 1500
    assert to_tensorrt.available_mb(tmp_path / "none") is None
    monkeypatch.setattr(to_tensorrt, "available_mb", lambda: 1500)
    to_tensorrt.check_memory(50 * 2**20, 1024)
    with pytest.raises(ExportError, match=r"needs about 2400 MB of memory and 1500 MB are free"):
        to_tensorrt.check_memory(50 * 2**20, 2000)


def test_without_a_gpu_it_says_how_to_build_for_one_elsewhere(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise EngineUnavailable("this machine has no NVIDIA driver")

    monkeypatch.setattr(to_tensorrt, "first_gpu", absent)
    with pytest.raises(ExportError, match=r"no NVIDIA driver; .* give --rtx and --compute-capability"):
        to_tensorrt.build(files, built=tmp_path)
    with pytest.raises(ExportError, match="give --compute-capability"):
        to_tensorrt.build(files, runtime="tensorrt-rtx", built=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [17, 20])
def test_a_graph_made_elsewhere_is_built_without_torch_and_one_that_does_not_fit_is_refused(
    files: ModelFiles, tmp_path: Path, opset: int
) -> None:
    _need_rtx()
    graph = to_onnx.export(files, tmp_path / "half.onnx", opset=opset, precision="fp16")
    program = f"""
import sys
from pathlib import Path
from export import to_tensorrt
from sgmsnet.checkpoint import find
to_tensorrt.available_mb = lambda: None
folder = to_tensorrt.build(
    find({str(files.weights)!r}), runtime="tensorrt-rtx", graph=Path({str(graph)!r}), compute_capabilities=["8.6"],
    built=Path({str(tmp_path / "built")!r}), report=lambda line: None,
)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = manifests.read(tmp_path / "built" / "tiny" / "tensorrt-rtx-fp16")
    assert (made.opset, made.precision, made.weights_sha256) == (opset, "fp16", files.sha256)
    assert made.outputs == {name: (-1, *shape) for name, shape in files.config.output_shapes.items()}

    check, fits = to_tensorrt.check_graph, {"precision": "fp16", "largest_opset": 20}
    check(graph, files, **fits)
    with pytest.raises(ExportError, match=r"there is no .*absent\.onnx; `python -m export onnx --precision fp16`"):
        check(tmp_path / "absent.onnx", files, **fits)
    with pytest.raises(ExportError, match="not exported from the weights of tiny here"):
        check(graph, replace(files, sha256="f" * 64), **fits)
    with pytest.raises(ExportError, match="is in fp16, and a plan in fp32 was asked for"):
        check(graph, files, precision="fp32", largest_opset=20)
    with pytest.raises(ExportError, match=f"has opset {opset}, and the TensorRT here reads up to 16"):
        check(graph, files, precision="fp16", largest_opset=16)
    traced = onnx.load(graph)
    traced.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "height"  # as version 0.3.0 wrote it in opset 17
    onnx.save(traced, graph)
    with pytest.raises(ExportError, match="does not state the sizes of its outputs"):
        check(graph, files, **fits)


def test_without_torch_and_a_graph_it_is_told_where_to_write_one(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("export.to_onnx")
    monkeypatch.delitem(sys.modules, "export.to_onnx")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    with pytest.raises(
        ExportError, match=r"needs torch, .* --precision fp16` writes it on another machine, and --graph"
    ):
        to_tensorrt._graph(files, None, tmp_path / "model.onnx", precision="fp16", opset=17)


def test_the_graph_beside_the_weights_is_copied_with_its_weights(files: ModelFiles, tmp_path: Path) -> None:
    """A Jetson without torch has no other graph in FP32, and this one points into the weights' file."""
    assert files.graph is not None
    to_tensorrt._graph(files, files.graph, tmp_path / "model.onnx", precision="fp32", opset=20)
    alone = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in alone.graph.initializer)
    assert (tmp_path / "model.onnx").stat().st_size > files.graph.stat().st_size
    onnx.checker.check_model(alone, full_check=True)


def test_tensorrt_8_is_given_the_opset_that_it_reads() -> None:
    for version, opset in (("8.6.2", 17), ("10.3.0", 20), ("11.0", 20)):
        assert to_tensorrt._largest_opset("tensorrt", version) == opset
    assert to_tensorrt._largest_opset("tensorrt-rtx", "1.7.1.116") == 20


def test_a_distribution_for_one_cuda_counts_as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "tensorrt-cu12":
            raise metadata.PackageNotFoundError(name)
        return "10.9"

    monkeypatch.setattr(to_tensorrt.metadata, "version", version)
    assert to_tensorrt._installed("tensorrt") == "10.9"
    with pytest.raises(ExportError, match="package tensorrt-rtx-cu13 is not installed"):
        to_tensorrt._installed("tensorrt-rtx")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compute_capabilities": ["8.6"]}, r"only TensorRT for RTX \(--rtx\) builds"),
        ({"runtime": "tensorrt-rtx", "compute_capabilities": ["8.6", "sm89"]}, "reads as 8.6 does, not 'sm89'"),
        ({"runtime": "tensorrt-rtx", "compute_capabilities": ["86"]}, "reads as 8.6 does, not '86'"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_anything_is_done(
    options: dict[str, Any], reason: str, files: ModelFiles, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=reason):
        to_tensorrt.build(files, built=tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def build(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PlanRequest]:
    """Build an FP32 plan of the graph beside the weights as on a Jetson; the child is a fake, which may fail."""
    asked: list[PlanRequest] = []

    def call(*, version: str = "10.3.0", gpu: Gpu = ORIN, fails: bool = False) -> PlanRequest:
        def child(request: PlanRequest, *, report: object) -> str:
            asked.append(request)
            Path(request.plan).write_bytes(b"new plan")
            if fails:
                raise ExportError("the builder refused")
            return version

        monkeypatch.setattr(to_tensorrt, "run_child", child)
        monkeypatch.setattr(to_tensorrt, "_installed", lambda runtime: version)
        monkeypatch.setattr(to_tensorrt, "_capability", lambda graph, runtime: "reads every node")
        monkeypatch.setattr(to_tensorrt, "available_mb", lambda: None)
        monkeypatch.setattr(to_tensorrt, "first_gpu", lambda: gpu)
        assert files.graph is not None
        to_tensorrt.build(files, precision="fp32", graph=files.graph, built=tmp_path, report=lambda line: None)
        return asked[-1]

    return call


def test_a_build_that_fails_leaves_what_was_built_before_and_nothing_else(
    build: Callable[..., PlanRequest], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny" / "tensorrt-fp32"
    with pytest.raises(ExportError, match="the builder refused"):
        build(fails=True)
    assert not list(folder.parent.iterdir())
    build()
    verdicts.write(folder, {"passed": True})
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    assert sorted(before) == ["manifest.json", "model.onnx", "model.plan", "parity.json"]
    with pytest.raises(ExportError, match="the builder refused"):
        build(fails=True)
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_plan_that_is_built_again_loses_the_verdict_of_the_one_before(
    build: Callable[..., PlanRequest], tmp_path: Path
) -> None:
    build()
    folder = tmp_path / "tiny" / "tensorrt-fp32"
    verdicts.write(folder, {"passed": False})
    manifests.record_parity(folder, {"passed": False})
    build()
    assert manifests.read(folder).parity is None
    assert not (folder / verdicts.FILE_NAME).exists()


def test_manifest_and_timing_cache_are_of_this_very_gpu_and_tensorrt(
    build: Callable[..., PlanRequest], tmp_path: Path
) -> None:
    small = replace(ORIN, multiprocessors=8)
    caches = {build().timing_cache, build(gpu=small).timing_cache, build(version="10.7.0").timing_cache}
    assert len(caches) == 3
    assert build().timing_cache in caches
    assert {Path(str(cache)).parent for cache in caches} == {tmp_path}
    assert manifests.read(tmp_path / "tiny" / "tensorrt-fp32").multiprocessors == 16
